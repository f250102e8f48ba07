// Walks over masks.
#include "tests/text/grammar_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace shoal::text::testing {

const Smollm2Grammars& SmolGrammars() {
  static const Smollm2Grammars* const made = [] {
    auto* grammars = new Smollm2Grammars;
    grammars->tokenizer = Smollm2();
    grammars->vocab = grammars->tokenizer->vocab_size();
    grammars->end = grammars->tokenizer->TokenId("<|im_end|>");
    auto compiler = GrammarCompiler::Create(*grammars->tokenizer, grammars->vocab, {grammars->end});
    if (!compiler.ok()) {
      ADD_FAILURE() << compiler.status();
      std::exit(1);
    }
    grammars->compiler = *std::move(compiler);
    return grammars;
  }();
  return *made;
}

GrammarSpec SchemaSpec(std::string_view schema) {
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kJsonSchema;
  spec.text = schema;
  return spec;
}

GrammarSpec RegexSpec(std::string_view regex) {
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kRegex;
  spec.text = regex;
  return spec;
}

std::vector<int32_t> Allowed(Matcher& matcher, int vocab) {
  std::vector<uint32_t> mask((static_cast<size_t>(vocab) + 31) / 32, ~0u);
  const absl::Status filled = matcher.FillMask(mask);
  EXPECT_TRUE(filled.ok()) << filled;
  std::vector<int32_t> ids;
  if (!filled.ok()) return ids;
  for (int32_t id = 0; id < vocab; ++id) {
    if ((mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0) ids.push_back(id);
  }
  return ids;
}

std::optional<std::string> Walk(const Smollm2Grammars& grammars, Matcher& matcher, Random& random, int most,
                                std::vector<int32_t>* tokens) {
  std::string text;
  for (int step = 0; step < most; ++step) {
    const std::vector<int32_t> allowed = Allowed(matcher, grammars.vocab);
    EXPECT_FALSE(allowed.empty()) << "a dead end after: " << text;
    if (allowed.empty()) return std::nullopt;
    bool end_allowed = false;
    for (const int32_t id : allowed) end_allowed |= id == grammars.end;
    EXPECT_EQ(matcher.CanEnd(), end_allowed) << text;
    int32_t token = allowed[random.Below(static_cast<uint32_t>(allowed.size()))];
    // Uniform draws would hardly ever close a string: every third one is of the tokens that do, or the end.
    if (random.Below(3) == 0) {
      static constexpr std::array<std::string_view, 12> kClosing = {
          "\"", "\",", "}", "]", "\"}", "\":", "\"]", "},", "],", ",", "}}", "0"};
      std::vector<int32_t> closing;
      for (const std::string_view spelling : kClosing) {
        const int32_t id = grammars.tokenizer->TokenId(spelling);
        if (id >= 0 && std::binary_search(allowed.begin(), allowed.end(), id)) closing.push_back(id);
      }
      if (!closing.empty()) token = closing[random.Below(static_cast<uint32_t>(closing.size()))];
    }
    if (end_allowed && (step > most / 2 || random.Below(4) == 0)) token = grammars.end;
    const absl::Status accepted = matcher.Accept(token);
    EXPECT_TRUE(accepted.ok()) << accepted << " after: " << text;
    if (!accepted.ok()) return std::nullopt;
    if (tokens != nullptr) tokens->push_back(token);
    if (token == grammars.end) return text;
    text += grammars.tokenizer->TokenBytes(token, true);
  }
  return std::nullopt;
}

bool Matches(const Smollm2Grammars& grammars, const Grammar& grammar, std::string_view text) {
  const auto ids = grammars.tokenizer->Encode(text, Tokenizer::Mode::kWithControl, /*add_bos=*/false);
  EXPECT_TRUE(ids.ok()) << ids.status();
  const std::unique_ptr<Matcher> matcher = grammar.NewMatcher();
  for (const int32_t id : *ids) {
    if (!matcher->Accept(id).ok()) return false;
  }
  return matcher->CanEnd();
}

}  // namespace shoal::text::testing
