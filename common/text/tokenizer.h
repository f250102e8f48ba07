// Text <-> token ids for one model. Immutable after creation; every method is thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::text {

// A vocabulary as a GGUF file carries it (tokenizer.ggml.*). Views are read during creation only.
struct GgufVocab {
  std::string_view model;  // "gpt2" (byte-level BPE); others are refused by name
  std::string_view pre;    // pre-tokenizer: "smollm", "llama-bpe", ...; unknown ones are refused by name
  std::vector<std::string_view> tokens;
  std::vector<int32_t> token_types;      // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string_view> merges;  // "left right"
  std::optional<bool> add_bos;           // absent: as the pre-tokenizer's models have it
  int32_t bos = -1, eos = -1, unk = -1;  // -1: none
};

class Tokenizer {
 public:
  // From the bytes of a tokenizer.json. Its truncation and padding settings are ignored.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json);
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromGguf(const GgufVocab& vocab);

  virtual ~Tokenizer() = default;

  // What the text may turn into. kPlain: user text; never yields a control token, whatever it spells. kWithControl:
  // text made by the chat template, in which control tokens are meant. `add_bos`: begin with the token(s) that this
  // model wants at the start of a text, if any. InvalidArgument when `text` is not valid UTF-8.
  enum class Mode { kPlain, kWithControl };
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, Mode mode, bool add_bos) const = 0;

  // The bytes of one token as they appear in text (not necessarily whole characters); empty for control tokens unless
  // `show_control`, and for ids outside the vocabulary.
  virtual std::string TokenBytes(int32_t id, bool show_control) const = 0;

  // Spaces that the model's own decoder takes away at the very start of a text (SentencePiece adds one before
  // encoding). TokenBytes keeps them: an answer continues a text.
  virtual int leading_spaces() const { return 0; }

  virtual int32_t vocab_size() const = 0;
  virtual bool is_control(int32_t id) const = 0;
  // The id of a token given its exact spelling ("<|im_end|>"); -1 when there is none.
  virtual int32_t TokenId(std::string_view spelling) const = 0;
  // Spellings of all control tokens.
  virtual std::vector<std::string> control_spellings() const = 0;
};

}  // namespace shoal::text
