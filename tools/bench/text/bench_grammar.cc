// What a grammar costs per token: the time of FillMask and Accept over random walks through a corpus of schemas, and
// of compiling. Usage: bench_grammar [SCHEMAS.json [MODEL]]; by default the tests' corpus and the default model's
// vocabulary. Random walks are worse than a model's: they leave the beaten track at every token.
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/rng.h"
#include "common/model/checkpoint.h"
#include "common/text/grammar.h"

namespace {

namespace json = boost::json;
namespace text = shoal::text;

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

double At(std::vector<double>& values, double quantile) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[static_cast<size_t>(quantile * static_cast<double>(values.size() - 1))];
}

void Print(const char* what, std::vector<double>& values) {
  std::printf("%-8s  n %7zu  p50 %8.1f us  p90 %8.1f us  p99 %8.1f us  most %9.1f us\n", what, values.size(),
              At(values, 0.5), At(values, 0.9), At(values, 0.99), At(values, 1));
}

struct Vocabulary {
  std::shared_ptr<const text::GrammarCompiler> compiler;
  int vocab = 0;
  int32_t end = -1;
};

// Exits when there is none.
Vocabulary Open(const std::string& path) {
  Vocabulary made;
  const auto files = shoal::model::OpenModel(path);
  if (!files.ok()) {
    std::fprintf(stderr, "%s\n", files.status().ToString().c_str());
    std::exit(1);
  }
  const auto tokenizer = shoal::model::OpenTokenizer(*files);
  if (tokenizer.ok()) {
    made.vocab = (*tokenizer)->vocab_size();
    made.end = (*tokenizer)->TokenId(files->eos_spelling);
    const auto compiler = text::GrammarCompiler::Create(**tokenizer, made.vocab, {made.end});
    if (compiler.ok()) {
      made.compiler = *compiler;
      return made;
    }
  }
  std::fprintf(stderr, "%s: no vocabulary that grammars can use\n", path.c_str());
  std::exit(1);
}

struct Times {
  std::vector<double> compile, mask, accept;  // microseconds
};

// One walk of at most 200 tokens; false when the matcher failed.
bool Walk(text::Matcher& matcher, const Vocabulary& g, uint64_t walk, Times& times) {
  std::vector<uint32_t> mask(static_cast<size_t>(g.vocab + 31) / 32);
  for (int step = 0; step < 200; ++step) {
    const absl::Time begin = absl::Now();
    if (!matcher.FillMask(mask).ok()) return false;
    times.mask.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
    int32_t id =
        static_cast<int32_t>(shoal::RandomBits(1, walk, static_cast<uint64_t>(step)) % static_cast<uint32_t>(g.vocab));
    while ((mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1) == 0) id = (id + 1) % g.vocab;
    const absl::Time then = absl::Now();
    if (!matcher.Accept(id).ok()) return false;
    times.accept.push_back(absl::ToDoubleMicroseconds(absl::Now() - then));
    if (id == g.end) return true;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string schemas = argc > 1 ? argv[1] : "tests/text/data/schemas.json";
  const Vocabulary g = Open(argc > 2 ? argv[2] : "models/SmolLM2-135M-Instruct-Q4_1.gguf");
  std::printf("vocabulary %d: indexed in %.0f ms, %.1f MiB\n", g.vocab,
              absl::ToDoubleMilliseconds(g.compiler->creation_time()),
              static_cast<double>(g.compiler->bytes()) / (1 << 20));
  const json::array rows = json::parse(Read(schemas)).as_array();
  Times times;
  size_t bytes = 0;
  uint64_t walks = 0;
  for (const json::value& row : rows) {
    text::GrammarSpec spec;
    spec.kind = text::GrammarSpec::Kind::kJsonSchema;
    spec.text = json::serialize(row.at("schema"));
    const absl::Time begin = absl::Now();
    const auto grammar = g.compiler->Compile(spec, {});
    if (!grammar.ok()) continue;
    times.compile.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
    for (int walk = 0; walk < 10; ++walk) {
      const auto matcher = (*grammar)->NewMatcher();
      if (!Walk(*matcher, g, walks++, times)) std::printf("a walk failed: %s\n", spec.text.c_str());
    }
    bytes = std::max(bytes, (*grammar)->bytes());
  }
  std::printf("%zu schemas; the largest grammar holds %.2f MiB afterwards\n", times.compile.size(),
              static_cast<double>(bytes) / (1 << 20));
  Print("compile", times.compile);
  Print("mask", times.mask);
  Print("accept", times.accept);
  return 0;
}
