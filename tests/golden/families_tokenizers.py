"""Tokenizers of the tiny checkpoints, 288 tokens each: byte-level BPE for decoders, WordPiece for encoders."""
import json

MERGES = ("Ġ t|Ġ a|h e|i n|r e|o n|Ġt he|e r|Ġ s|a t|Ġ w|Ġ o|e n|Ġ c|i t|i s|a n|o r|e s|Ġ b|e d|Ġ f|in g|Ġ p|o u|Ġa n|"
          "a l|a r|Ġt o").split("|")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
ENCODER_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes (its encoder.py): printable ones are themselves, others move up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def byte_level_bpe():
    """tokenizer.json and tokenizer_config.json: 256 bytes, 29 merges, 3 special tokens."""
    vocab = byte_symbols() + [m.replace(" ", "") for m in MERGES]
    first = len(vocab)
    assert len(set(vocab)) == first == 285, first
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": first + i, "content": t, **FLAGS} for i, t in enumerate(SPECIAL)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(vocab)}, "merges": [m.split(" ") for m in MERGES]}}
    config = {"add_prefix_space": False, "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0],
              "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "tokenizer_class": "GPT2Tokenizer",
              "added_tokens_decoder": {str(first + i): {"content": t, **FLAGS} for i, t in enumerate(SPECIAL)}}
    return tokenizer, config


def word_piece():
    """tokenizer.json, tokenizer_config.json and vocab.txt of an uncased encoder whose words are single characters."""
    letters = [chr(c) for c in range(0x21, 0x7F) if not chr(c).isupper()]
    vocab = [*ENCODER_SPECIAL, *letters, *("##" + c for c in letters)]
    vocab += [f"[unused{i}]" for i in range(288 - len(vocab))]
    cls, sep = vocab.index("[CLS]"), vocab.index("[SEP]")
    pieces = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, **FLAGS} for i, t in enumerate(ENCODER_SPECIAL)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": pieces,
                           "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}},
                                    {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
                                              "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {t: i for i, t in enumerate(vocab)}}}
    config = {"do_lower_case": True, "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
              "mask_token": "[MASK]", "model_max_length": 64, "tokenizer_class": "BertTokenizer"}
    return tokenizer, config, "".join(t + "\n" for t in vocab)


def write(folder, encoder):
    """The tokenizer's files, as checkpoints have them."""
    tokenizer, config, *text = word_piece() if encoder else byte_level_bpe()
    if encoder:
        (folder / "vocab.txt").write_text(text[0], encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
