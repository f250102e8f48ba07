// Tokenizer over the Rust half.
#include "common/text/tokenizer.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/text/rust_call.h"

namespace shoal::text {
namespace {

class RustTokenizer final : public Tokenizer {
 public:
  explicit RustTokenizer(ShoalTokenizer* handle) : handle_(handle) {
    const int32_t size = shoal_tokenizer_vocab_size(handle_);
    for (int32_t id = 0; id < size; ++id) {
      if (shoal_tokenizer_is_control(handle_, id) == 0) continue;
      const ShoalStr spelling = shoal_tokenizer_token_bytes(handle_, id);
      control_spellings_.emplace_back(spelling.data, spelling.size);
    }
  }
  ~RustTokenizer() override {
    RustCall call;
    shoal_tokenizer_free(handle_);
  }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, Mode mode, bool add_bos) const override {
    std::vector<int32_t> ids;
    const ShoalIdSink sink = {&ids, [](void* context, const int32_t* data, size_t count) {
                                static_cast<std::vector<int32_t>*>(context)->assign(data, data + count);
                              }};
    RustCall call;
    const int32_t code = shoal_tokenizer_encode(handle_, ToRust(text), mode == Mode::kWithControl ? 1 : 0,
                                                add_bos ? 1 : 0, sink, call.error_sink());
    SHOAL_RETURN_IF_ERROR(call.ToStatus(code));
    return ids;
  }

  std::string TokenBytes(int32_t id, bool show_control) const override {
    if (!show_control && is_control(id)) return std::string();
    const ShoalStr bytes = shoal_tokenizer_token_bytes(handle_, id);
    return bytes.size == 0 ? std::string() : std::string(bytes.data, bytes.size);
  }

  int leading_spaces() const override { return shoal_tokenizer_leading_spaces(handle_); }
  int32_t vocab_size() const override { return shoal_tokenizer_vocab_size(handle_); }
  bool is_control(int32_t id) const override { return shoal_tokenizer_is_control(handle_, id) != 0; }
  int32_t TokenId(std::string_view spelling) const override {
    return shoal_tokenizer_token_id(handle_, ToRust(spelling));
  }
  std::vector<std::string> control_spellings() const override { return control_spellings_; }

 private:
  ShoalTokenizer* const handle_;  // owned
  std::vector<std::string> control_spellings_;
};

std::vector<ShoalStr> ToRust(const std::vector<std::string_view>& strings) {
  std::vector<ShoalStr> views;
  views.reserve(strings.size());
  for (const std::string_view s : strings) views.push_back(text::ToRust(s));
  return views;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json) {
  ShoalTokenizer* handle = nullptr;
  RustCall call;
  const int32_t code = shoal_tokenizer_from_json(text::ToRust(tokenizer_json), &handle, call.error_sink());
  SHOAL_RETURN_IF_ERROR(call.ToStatus(code));
  return std::make_shared<const RustTokenizer>(handle);
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromGguf(const GgufVocab& vocab) {
  if (vocab.token_types.size() != vocab.tokens.size()) {
    return absl::InvalidArgumentError("tokenizer.ggml.token_type and tokenizer.ggml.tokens differ in length");
  }
  const std::vector<ShoalStr> tokens = ToRust(vocab.tokens);
  const std::vector<ShoalStr> merges = ToRust(vocab.merges);
  const ShoalGgufVocab raw = {
      .model = text::ToRust(vocab.model),
      .pre = text::ToRust(vocab.pre),
      .tokens = tokens.data(),
      .token_types = vocab.token_types.data(),
      .token_count = tokens.size(),
      .merges = merges.data(),
      .merge_count = merges.size(),
      .add_bos = vocab.add_bos.has_value() ? static_cast<int32_t>(*vocab.add_bos) : -1,
      .bos = vocab.bos,
      .eos = vocab.eos,
      .unk = vocab.unk,
  };
  ShoalTokenizer* handle = nullptr;
  RustCall call;
  const int32_t code = shoal_tokenizer_from_gguf(&raw, &handle, call.error_sink());
  SHOAL_RETURN_IF_ERROR(call.ToStatus(code));
  return std::make_shared<const RustTokenizer>(handle);
}

}  // namespace shoal::text
