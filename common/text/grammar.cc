// Grammars over the Rust half.
#include "common/text/grammar.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/text/rust_call.h"

namespace shoal::text {
namespace {

// What a Rust handle's free function needs around it.
struct FreeInRust {
  void operator()(ShoalGrammarCompiler* compiler) const {
    RustCall call;
    shoal_grammar_compiler_free(compiler);
  }
  void operator()(ShoalGrammar* grammar) const {
    RustCall call;
    shoal_grammar_free(grammar);
  }
  void operator()(ShoalMatcher* matcher) const {
    RustCall call;
    shoal_matcher_free(matcher);
  }
};
template <typename T>
using RustOwned = std::unique_ptr<T, FreeInRust>;

class RustMatcher final : public Matcher {
 public:
  explicit RustMatcher(ShoalMatcher* handle) : handle_(handle) {}

  absl::Status Accept(int32_t token) override {
    if (token < 0) return absl::InvalidArgumentError("a token below 0 is not allowed");
    if (handle_ == nullptr) return Broken();
    RustCall call;
    return call.ToStatus(shoal_matcher_accept(handle_.get(), static_cast<uint32_t>(token), call.error_sink()));
  }

  absl::Status FillMask(std::span<uint32_t> mask) override {
    if (handle_ == nullptr) return Broken();
    RustCall call;
    return call.ToStatus(shoal_matcher_mask(handle_.get(), mask.data(), mask.size(), call.error_sink()));
  }

  bool CanEnd() override {
    if (handle_ == nullptr) return false;
    RustCall call;
    int32_t can = 0;
    return shoal_matcher_can_end(handle_.get(), &can, call.error_sink()) == SHOAL_TEXT_OK && can != 0;
  }

  std::unique_ptr<Matcher> Clone() const override {
    ShoalMatcher* copy = nullptr;
    RustCall call;
    if (handle_ != nullptr) shoal_matcher_copy(handle_.get(), &copy, call.error_sink());  // null on failure: broken
    return std::make_unique<RustMatcher>(copy);
  }

 private:
  static absl::Status Broken() { return absl::InternalError("the grammar failed before"); }

  const RustOwned<ShoalMatcher> handle_;  // null: the grammar was broken already
};

class RustGrammar final : public Grammar {
 public:
  explicit RustGrammar(ShoalGrammar* handle) : handle_(handle) {}

  std::unique_ptr<Matcher> NewMatcher() const override {
    ShoalMatcher* matcher = nullptr;
    RustCall call;
    shoal_matcher_create(handle_.get(), &matcher, call.error_sink());  // null on failure: broken
    return std::make_unique<RustMatcher>(matcher);
  }
  size_t bytes() const override {
    RustCall call;
    return shoal_grammar_bytes(handle_.get());
  }
  bool is_broken() const override { return shoal_grammar_is_broken(handle_.get()) != 0; }

 private:
  const RustOwned<ShoalGrammar> handle_;
};

class RustGrammarCompiler final : public GrammarCompiler {
 public:
  RustGrammarCompiler(ShoalGrammarCompiler* handle, absl::Duration creation_time)
      : handle_(handle), creation_time_(creation_time) {}

  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSpec& spec,
                                                         const GrammarLimits& limits) const override {
    std::vector<ShoalStr> items;
    items.reserve(spec.items.size());
    for (const std::string& item : spec.items) items.push_back(ToRust(item));
    const CallShape& calls = spec.calls;
    const ShoalGrammarSpec raw = {
        .kind = static_cast<int32_t>(spec.kind),
        .white_space = static_cast<int32_t>(spec.white_space),
        .text = ToRust(spec.text),
        .items = items.data(),
        .item_count = items.size(),
        .after = ToRust(spec.after),
        .calls = {.first = ToRust(calls.first),
                  .before = ToRust(calls.before),
                  .after = ToRust(calls.after),
                  .between = ToRust(calls.between),
                  .last = ToRust(calls.last),
                  .arguments_key = ToRust(calls.arguments_key),
                  .most = calls.most,
                  .optional = calls.optional ? 1 : 0,
                  .only_at_start = calls.only_at_start ? 1 : 0,
                  .repeats = calls.repeats ? 1 : 0},
    };
    const ShoalGrammarLimits raw_limits = {limits.bytes,     limits.depth,      limits.nodes, limits.compile_fuel,
                                           limits.step_fuel, limits.step_items, limits.states};
    ShoalGrammar* grammar = nullptr;
    RustCall call;
    SHOAL_RETURN_IF_ERROR(
        call.ToStatus(shoal_grammar_compile(handle_.get(), &raw, &raw_limits, &grammar, call.error_sink())));
    return std::make_shared<const RustGrammar>(grammar);
  }
  absl::Duration creation_time() const override { return creation_time_; }
  size_t bytes() const override { return shoal_grammar_compiler_bytes(handle_.get()); }

 private:
  const RustOwned<ShoalGrammarCompiler> handle_;
  const absl::Duration creation_time_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const GrammarCompiler>> GrammarCompiler::Create(const Tokenizer& tokenizer, int vocab,
                                                                               const std::vector<int32_t>& end_tokens) {
  if (vocab <= 0 || vocab > (1 << 20)) return absl::InvalidArgumentError("a grammar needs a vocabulary of 1 to 2^20");
  const absl::Time begin = absl::Now();
  std::vector<std::string> bytes(static_cast<size_t>(vocab));
  std::vector<ShoalStr> tokens(bytes.size());
  std::vector<uint8_t> control(bytes.size());
  for (int32_t id = 0; id < vocab; ++id) {
    if (id < tokenizer.vocab_size()) {
      bytes[id] = tokenizer.TokenBytes(id, /*show_control=*/true);
      control[id] = tokenizer.is_control(id) ? 1 : 0;
    }
    tokens[id] = ToRust(bytes[id]);
  }
  std::vector<uint32_t> ends;
  for (const int32_t id : end_tokens) {
    if (id >= 0 && id < vocab) ends.push_back(static_cast<uint32_t>(id));
  }
  if (ends.empty()) return absl::InvalidArgumentError("a grammar needs a token that ends an answer");
  ShoalGrammarCompiler* compiler = nullptr;
  RustCall call;
  SHOAL_RETURN_IF_ERROR(call.ToStatus(shoal_grammar_compiler_create(
      tokens.data(), control.data(), tokens.size(), ends.data(), ends.size(), &compiler, call.error_sink())));
  return std::make_shared<const RustGrammarCompiler>(compiler, absl::Now() - begin);
}

}  // namespace shoal::text
