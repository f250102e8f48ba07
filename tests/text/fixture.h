// What the tests of common/text share: the committed answers of Hugging Face and Jinja2 (tools/dev/fixtures/text.py),
// and the default model's vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/rng.h"
#include "common/text/tokenizer.h"

namespace shoal::text::testing {

struct Encoding {
  std::string text;
  std::vector<int32_t> plain, with_control;
  std::string decoded;  // of `plain`
};

struct Smollm2Answers {
  std::vector<std::string> control;
  std::vector<Encoding> rows;
};
Smollm2Answers ReadSmollm2Answers();

// A small byte-level vocabulary, and its encodings under each pre-tokenizer.
struct ByteLevelAnswers {
  std::vector<std::string> tokens, merges, control;
  struct Family {
    std::string pre;
    std::vector<Encoding> rows;  // `decoded` is not filled in
  };
  std::vector<Family> families;
  std::string tokenizer_json;  // the llama-bpe family
};
ByteLevelAnswers ReadByteLevelAnswers();

struct SentencePieceAnswers {
  std::string tokenizer_json;
  std::vector<Encoding> rows;
};
SentencePieceAnswers ReadSentencePieceAnswers();

struct TemplateCase {
  std::string name, source, context;
  std::string rendered, raised;  // one of the two, unless `fails`
  bool fails = false;            // for another reason than raise_exception
};
struct TemplateAnswers {
  int64_t now = 0;  // what strftime_now saw, UTC
  std::vector<TemplateCase> cases;
};
TemplateAnswers ReadTemplateAnswers();

// The default model's; the test fails when its file is not there (`make model`).
std::shared_ptr<const Tokenizer> Smollm2();
// The vocabulary of ByteLevelAnswers as a GGUF file would carry it.
std::shared_ptr<const Tokenizer> ByteLevel(const ByteLevelAnswers& answers, std::string_view pre);

// Numbers that are the same in every run.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  // In [0, n).
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(RandomBits(seed_, 0, next_++) % n); }

 private:
  const uint64_t seed_;
  uint64_t next_ = 0;
};

// Text of a few characters to a few dozen, of the kinds that tokenizers treat differently.
std::string RandomText(Random& random);

std::string ReplaceAll(std::string text, std::string_view from, std::string_view to);

}  // namespace shoal::text::testing
