// What the tests of grammars share: compilers over real vocabularies, and walks over masks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/grammar.h"
#include "tests/text/fixture.h"

namespace shoal::text::testing {

// The default model's vocabulary and its <|im_end|>.
struct Smollm2Grammars {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const GrammarCompiler> compiler;
  int vocab = 0;
  int32_t end = -1;
};
const Smollm2Grammars& SmolGrammars();

GrammarSpec SchemaSpec(std::string_view schema);
GrammarSpec RegexSpec(std::string_view regex);

std::vector<int32_t> Allowed(Matcher& matcher, int vocab);

// The text that tokens drawn from the masks make, until an end token is drawn; nothing when `most` tokens did not end
// it. Every step checks that each token drawn is accepted, and that an end token is allowed exactly where CanEnd says
// so.

std::optional<std::string> Walk(const Smollm2Grammars& grammars, Matcher& matcher, Random& random, int most,
                                std::vector<int32_t>* tokens = nullptr);

// Whether the bytes of `text` are a whole answer, token by token of the tokenizer.
bool Matches(const Smollm2Grammars& grammars, const Grammar& grammar, std::string_view text);

}  // namespace shoal::text::testing
