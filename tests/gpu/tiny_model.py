"""Models for tests where there are no files: a configuration and a tokenizer, for made-up weights (--load-format dummy),
or a GGUF file of random ones. Every token but a few of control is a text of its own, so that equal texts are equal
tokens."""

import json
import pathlib
import random
import struct

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, START, END = range(3)
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY = {"layers": 4, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 96, "vocab": 288}
# Some layers of a model with 8B parameters: 1.2 GB in Q8_0.
FEW_OF_8B = {"layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336, "vocab": 32768}
# Of a model with 70B parameters; layers as many as there is room for.
SHAPE_70B = {"hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "ffn": 28672, "vocab": 128256}


def vocabulary(size):
    """Printable ASCII by letters (GPT-2 spells a space as Ġ and a line feed as Ċ), and fillers."""
    tokens = [*CONTROL, "Ġ", "Ċ", *(chr(c) for c in range(33, 127)), "he"]
    return tokens + [f"[{i}]" for i in range(len(tokens), size)]


def tokenizer(size):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    nothing = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": [{"id": i, "content": text, "special": True, **flags} for i, text in enumerate(CONTROL)],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(nothing),
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: i for i, text in enumerate(vocabulary(size))},
            "merges": ["h e"],
        },
    }


def write_directory(folder, shape):
    """What `shoal serve FOLDER --load-format dummy` needs. The head is no copy of the embedding: with random weights the
    next token would always be the last one."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "num_hidden_layers": shape["layers"],
        "hidden_size": shape["hidden"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "intermediate_size": shape["ffn"],
        "vocab_size": shape["vocab"],
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": START,
        "eos_token_id": END,
    }
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(shape["vocab"])))
    words = {"add_bos_token": False, "bos_token": CONTROL[START], "eos_token": CONTROL[END], "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder


UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of GGUF's metadata
F32, Q8_0 = 0, 8  # and of its tensors


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + gguf_string(value)
    kind, pack = (STRING, gguf_string) if isinstance(value[0], str) else (INT32, lambda x: struct.pack("<i", x))
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(map(pack, value))


def metadata(shape):
    vocab = vocabulary(shape["vocab"])
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": shape["layers"],
        "llama.context_length": 8192,
        "llama.embedding_length": shape["hidden"],
        "llama.feed_forward_length": shape["ffn"],
        "llama.attention.head_count": shape["heads"],
        "llama.attention.head_count_kv": shape["kv_heads"],
        "llama.attention.key_length": shape["head_dim"],
        "llama.attention.value_length": shape["head_dim"],
        "llama.rope.dimension_count": shape["head_dim"],
        "llama.vocab_size": shape["vocab"],
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.token_type": [3 if i < len(CONTROL) else 1 for i in range(len(vocab))],
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": START,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT,
    }


def matrices(shape):
    """Names and [rows, columns] of one layer's."""
    q, kv = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    hidden, ffn = shape["hidden"], shape["ffn"]
    return {
        "attn_q": (q, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, q),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }


def write_gguf(path, shape, seed=1):
    """Q8_0 throughout: blocks of an f16 scale and 32 bytes. Values spread as wide as a product's terms should; those of a
    large matrix come again and again, but not at the same places of its rows."""
    source = random.Random(seed)
    tensors = []

    def matrix(name, rows, columns):
        scale = struct.pack("<e", 1.7 / 127 / columns**0.5)
        count = rows * columns // 32
        different = min(count, 4001)
        blocks = b"".join(scale + bytes(source.randrange(-127, 128) & 255 for _ in range(32)) for _ in range(different))
        tensors.append((name, (columns, rows), Q8_0, (blocks * (count // different + 1))[: count * 34]))

    def norm(name):
        tensors.append((name, (shape["hidden"],), F32, struct.pack("<f", 1.0) * shape["hidden"]))

    matrix("token_embd.weight", shape["vocab"], shape["hidden"])
    matrix("output.weight", shape["vocab"], shape["hidden"])
    norm("output_norm.weight")
    for layer in range(shape["layers"]):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for name, (rows, columns) in matrices(shape).items():
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
    facts = metadata(shape)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts))
    head += b"".join(gguf_string(key) + gguf_value(value) for key, value in facts.items())
    at = 0
    for name, dimensions, kind, content in tensors:
        head += gguf_string(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        head += struct.pack("<IQ", kind, at)
        at += len(content) + -len(content) % 32
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % 32))
        for *_, content in tensors:
            out.write(content + bytes(-len(content) % 32))
    return path
