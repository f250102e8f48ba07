// Specs that are made to hurt: each ends, as an error or as a grammar whose masks end, in bounded memory.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/text/grammar_fixture.h"

namespace shoal::text {
namespace {

using testing::Random;
using testing::RegexSpec;
using testing::SchemaSpec;
using testing::SmolGrammars;

std::string Repeat(std::string_view part, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += part;
  return all;
}

GrammarSpec LarkSpec(std::string_view text) {
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kLark;
  spec.text = text;
  return spec;
}

// Compiles, and where that works takes a few steps. Returns how compiling went.
absl::Status Try(const GrammarSpec& spec, const GrammarLimits& limits = {}) {
  const auto& smol = SmolGrammars();
  const auto grammar = smol.compiler->Compile(spec, limits);
  if (!grammar.ok()) {
    EXPECT_NE(grammar.status().code(), absl::StatusCode::kInternal) << grammar.status();
    EXPECT_LT(grammar.status().message().size(), 2000u);
    return grammar.status();
  }
  const std::unique_ptr<Matcher> matcher = (*grammar)->NewMatcher();
  Random random(1);
  std::vector<uint32_t> mask(static_cast<size_t>(smol.vocab + 31) / 32);
  for (int step = 0; step < 20; ++step) {
    const absl::Status filled = matcher->FillMask(mask);
    EXPECT_NE(filled.code(), absl::StatusCode::kInternal) << filled;
    if (!filled.ok()) break;
    int32_t id = static_cast<int32_t>(random.Below(static_cast<uint32_t>(smol.vocab)));
    while ((mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1) == 0) id = (id + 1) % smol.vocab;
    const absl::Status accepted = matcher->Accept(id);
    EXPECT_TRUE(accepted.ok() || accepted.code() == absl::StatusCode::kResourceExhausted) << accepted;
    if (!accepted.ok()) break;
  }
  return absl::OkStatus();
}

std::string Enum(int values) {
  std::string schema = R"({"enum":[)";
  for (int i = 0; i < values; ++i) absl::StrAppend(&schema, i == 0 ? "" : ",", "\"value ", i, "\"");
  return schema + "]}";
}

// A chain of definitions, each the next one; the last is a string.
std::string Chain(int length) {
  std::string schema = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < length; ++i) {
    absl::StrAppend(&schema, "\"d", i, R"(":{"type":"object","properties":{"x":{"$ref":"#/$defs/d)", i + 1, "\"}}},");
  }
  return absl::StrCat(schema, "\"d", length, R"(":{"type":"string"}}})");
}

// allOf of two anyOf: as many intersections as the product.
std::string Product(int options) {
  std::string one, two;
  for (int i = 0; i < options; ++i) {
    absl::StrAppend(&one, i == 0 ? "" : ",", R"({"properties":{"a)", i, R"(":{"type":"integer"}}})");
    absl::StrAppend(&two, i == 0 ? "" : ",", R"({"properties":{"b)", i, R"(":{"type":"integer"}}})");
  }
  return absl::StrCat(R"({"type":"object","allOf":[{"anyOf":[)", one, R"(]},{"anyOf":[)", two, "]}]}");
}

std::string Rules(int count) {
  std::string text = "start: r0\n";
  for (int i = 0; i < count; ++i) absl::StrAppend(&text, "r", i, ": \"a\" r", i + 1, "?\n");
  return absl::StrCat(text, "r", count, ": \"b\"\n");
}

std::vector<std::pair<std::string, GrammarSpec>> Hostile() {
  return {
      {"10 MB", SchemaSpec(Enum(700'000))},
      {"enum of 200", SchemaSpec(Enum(200))},
      {"enum of 10,000", SchemaSpec(Enum(10'000))},
      {"nested arrays", SchemaSpec(Repeat(R"({"items":)", 90) + "{}" + Repeat("}", 90))},
      {"nested too deep", SchemaSpec(Repeat(R"({"items":)", 20'000) + "{}" + Repeat("}", 20'000))},
      {"brackets", SchemaSpec(Repeat("[", 100'000))},
      {"chain of 3,000 references", SchemaSpec(Chain(3'000))},
      {"product of 100 x 100", SchemaSpec(Product(100))},
      {"product of 1,000 x 1,000", SchemaSpec(Product(1'000))},
      {"maxItems 10,000 twice", SchemaSpec(R"({"items":{"items":{},"maxItems":10000},"maxItems":10000})")},
      {"minLength 1,000,000", SchemaSpec(R"({"type":"string","minLength":1000000})")},
      {"length and pattern",
       SchemaSpec(R"({"type":"string","pattern":"^(a|b)*c$","minLength":5000,"maxLength":9000})")},
      {"exponential pattern", SchemaSpec(R"({"type":"string","pattern":"(a*)*b[ab]{200}$"})")},
      {"two patterns",
       SchemaSpec(R"({"allOf":[{"pattern":"^(..){1,99}$"},{"pattern":"^(...){1,98}$"},{"pattern":"^.{7}*$"}]})")},
      {"multiples", SchemaSpec(R"({"type":"integer","multipleOf":999999937,"minimum":1})")},
      {"pattern properties", SchemaSpec(R"({"patternProperties":{"^(a|b)*a(a|b){20}$":{},"^(a|b)*b(a|b){20}$":{}}})")},
      {"tree of two trees", SchemaSpec(R"({"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{)"
                                       R"("a":{"type":"object","properties":{"c":{"$ref":"#/$defs/a"}}},)"
                                       R"("b":{"type":"object","properties":{"c":{"$ref":"#/$defs/b"}}}}})")},
      {"regex: nested counts", RegexSpec("((a{0,200}){0,200}){0,200}")},
      {"regex: large count", RegexSpec("(ab|cd){1000000}")},
      {"regex: exponential", RegexSpec("(a|b)*a(a|b){30}c")},
      {"regex: alternatives", RegexSpec(Repeat("(a|b|c|d|e)", 5'000))},
      {"regex: brackets", RegexSpec(Repeat("(", 50'000) + Repeat(")", 50'000))},
      {"regex: classes", RegexSpec(Repeat("\\pL", 2'000))},
      {"lark: brackets", LarkSpec("start: " + Repeat("(", 100'000) + "\"a\"" + Repeat(")", 100'000))},
      {"lark: chain of rules", LarkSpec(Rules(8'000))},
      {"lark: left recursion", LarkSpec("start: start start | \"a\" | start start start\n")},
      {"lark: empty loop", LarkSpec("start: a*\na: b*\nb: \"\" | a\n")},
      {"lark: endless", LarkSpec("start: \"a\" start\n")},
      {"lark: complement", LarkSpec("start: A\nA: ~/(a|b)*a(a|b){18}/\n")},
      {"lark: repeats", LarkSpec("start: (((\"a\"{0,1000}){0,1000}){0,1000}){0,1000}\n")},
      {"lark: unknown token", LarkSpec("start: <|nothing|>\n")},
      {"lark: number of no token", LarkSpec("start: <[99999999]>\n")},
  };
}

TEST(GrammarHostile, EndsInTimeAndMemory) {
  for (const auto& [name, spec] : Hostile()) {
    const absl::Time begin = absl::Now();
    const absl::Status status = Try(spec);
    std::printf("%-28s %7.0f ms  %s\n", name.c_str(), absl::ToDoubleMilliseconds(absl::Now() - begin),
                std::string(status.message()).substr(0, 90).c_str());
    std::fflush(stdout);
  }
  rusage usage{};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  std::printf("peak of resident memory: %ld MiB\n", usage.ru_maxrss >> 10);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(usage.ru_maxrss >> 10, 1024);
#endif
}

TEST(GrammarHostile, LimitsAreNamed) {
  EXPECT_EQ(Try(SchemaSpec(Enum(700'000))).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Try(SchemaSpec(Repeat(R"({"items":)", 110) + "{}" + Repeat("}", 110))).code(),
            absl::StatusCode::kResourceExhausted);
  GrammarLimits small;
  small.nodes = 100;
  EXPECT_EQ(Try(SchemaSpec(Enum(200)), small).code(), absl::StatusCode::kResourceExhausted);
  small = {};
  small.compile_fuel = 100;
  EXPECT_EQ(Try(SchemaSpec(Enum(200)), small).code(), absl::StatusCode::kResourceExhausted);
}

// Bytes of any kind, and real schemas with a byte changed.
TEST(GrammarHostile, RandomBytes) {
  Random random(11);
  const std::string schema = R"({"type":"object","properties":{"a":{"type":"array","items":{"$ref":"#/$defs/x"},)"
                             R"("maxItems":3},"b":{"anyOf":[{"type":"number","minimum":1},{"enum":["x",null]}]}},)"
                             R"("required":["a"],"$defs":{"x":{"type":"string","pattern":"^a+$"}}})";
  const std::string lark = "start: a | B{2,3} <|im_start|>\na: \"x\" B?\nB: /[a-z]+/ & ~/abc/\n";
  const std::string_view syntax = R"x({}[]()":,|*+?^$\/~&.a1# )x";
  int compiled = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text;
    switch (round % 4) {
      case 0:
        for (uint32_t i = random.Below(60); i > 0; --i) text += static_cast<char>(random.Below(256));
        break;
      case 1:
        for (uint32_t i = random.Below(60); i > 0; --i)
          text += syntax[random.Below(static_cast<uint32_t>(syntax.size()))];
        break;
      default:
        text = round % 4 == 2 ? schema : lark;
        text[random.Below(static_cast<uint32_t>(text.size()))] = static_cast<char>(random.Below(128));
    }
    GrammarSpec spec;
    spec.kind = static_cast<GrammarSpec::Kind>(1 + random.Below(4));
    if (round % 4 == 2) spec.kind = GrammarSpec::Kind::kJsonSchema;
    if (round % 4 == 3) spec.kind = GrammarSpec::Kind::kLark;
    spec.text = text;
    spec.items = {text};
    if (Try(spec).ok()) ++compiled;
  }
  EXPECT_GT(compiled, 50) << "enough of them are grammars for this to mean something";
}

}  // namespace
}  // namespace shoal::text
