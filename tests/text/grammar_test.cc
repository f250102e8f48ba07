// Grammars over the default model's vocabulary: kinds, token borders, ends, clones, refusals.
#include "common/text/grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/text/grammar_fixture.h"

namespace shoal::text {
namespace {

using testing::Allowed;
using testing::Matches;
using testing::Random;
using testing::RegexSpec;
using testing::SchemaSpec;
using testing::SmolGrammars;
using testing::Walk;

std::shared_ptr<const Grammar> Compiled(const GrammarSpec& spec) {
  auto grammar = SmolGrammars().compiler->Compile(spec, GrammarLimits{});
  if (!grammar.ok()) {
    ADD_FAILURE() << grammar.status() << "\n" << spec.text;
    std::exit(1);
  }
  return *std::move(grammar);
}

absl::Status Refused(const GrammarSpec& spec) {
  const auto grammar = SmolGrammars().compiler->Compile(spec, GrammarLimits{});
  return grammar.status();
}

bool Fits(const GrammarSpec& spec, std::string_view text) { return Matches(SmolGrammars(), *Compiled(spec), text); }

TEST(Grammar, JsonObject) {
  const GrammarSpec spec;
  EXPECT_TRUE(Fits(spec, R"({})"));
  EXPECT_TRUE(Fits(spec, R"({"a":[1,-2.5e3,true,null,{"b":"c\n\u0001é"}]})"));
  EXPECT_FALSE(Fits(spec, R"([])"));
  EXPECT_FALSE(Fits(spec, R"({"a":1)"));
  EXPECT_FALSE(Fits(spec, R"({"a": 1})")) << "white space is as OpenAI's models write it";
}

TEST(Grammar, WhiteSpace) {
  GrammarSpec spec = SchemaSpec(R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},
                                    "required":["a","b"],"additionalProperties":false})");
  EXPECT_TRUE(Fits(spec, R"({"a":1,"b":2})"));
  spec.white_space = GrammarSpec::WhiteSpace::kSingle;
  EXPECT_TRUE(Fits(spec, R"({"a": 1, "b": 2})"));
  EXPECT_FALSE(Fits(spec, R"({"a":1,"b":2})"));
  spec.white_space = GrammarSpec::WhiteSpace::kAny;
  EXPECT_TRUE(Fits(spec, "{\n  \"a\": 1,\n  \"b\": 2\n}"));
  EXPECT_TRUE(Fits(spec, R"({"a":1,"b":2})"));
}

TEST(Grammar, Schema) {
  const GrammarSpec spec = SchemaSpec(R"({"type":"object","properties":{
      "name":{"type":"string","minLength":1,"maxLength":4},"age":{"type":"integer","minimum":0,"maximum":150},
      "tags":{"type":"array","items":{"enum":["x","yy"]},"maxItems":2}},"required":["name","age"]})");
  EXPECT_TRUE(Fits(spec, R"({"name":"Anna","age":150})"));
  EXPECT_TRUE(Fits(spec, R"({"name":"Anna","age":7,"tags":["x","yy"]})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"Annas","age":7})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"","age":7})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"Anna","age":151})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"Anna"})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"Anna","age":7,"tags":["x","x","x"]})"));
  EXPECT_FALSE(Fits(spec, R"({"name":"Anna","age":7,"more":1})")) << "only named properties, unless the schema says so";
}

TEST(Grammar, DatesAndTimes) {
  const GrammarSpec date = SchemaSpec(R"({"type":"string","format":"date"})");
  for (const std::string_view day : {"2024-02-29", "2000-02-29", "2023-02-28", "2023-12-31", "2023-01-30"}) {
    EXPECT_TRUE(Fits(date, "\"" + std::string(day) + "\"")) << day;
  }
  for (const std::string_view day : {"2023-02-29", "1900-02-29", "0000-01-01", "2023-04-31", "2023-13-01"}) {
    EXPECT_FALSE(Fits(date, "\"" + std::string(day) + "\"")) << day;
  }
  const GrammarSpec time = SchemaSpec(R"({"type":"string","format":"date-time"})");
  EXPECT_TRUE(Fits(time, R"("2024-02-29T23:59:59.5+01:00")"));
  EXPECT_FALSE(Fits(time, R"("2024-02-29T23:59:60Z")"));
  EXPECT_FALSE(Fits(time, R"("2023-02-29T23:59:59Z")"));
}

TEST(Grammar, FreeNamesKeepOutNamedOnes) {
  const GrammarSpec spec = SchemaSpec(R"({"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],
                                          "additionalProperties":{"type":"string"}})");
  EXPECT_TRUE(Fits(spec, R"({"a":1,"b":"x"})"));
  EXPECT_FALSE(Fits(spec, R"({"a":1,"a":"x"})"));
  EXPECT_FALSE(Fits(spec, R"({"a":1,"\u0061":"x"})")) << "the same name, spelled otherwise";
}

TEST(Grammar, Regex) {
  EXPECT_TRUE(Fits(RegexSpec("^[a-c]+/\\d{2}$"), "abc/42"));
  EXPECT_FALSE(Fits(RegexSpec("[a-c]+/\\d{2}"), "abc/4"));
  EXPECT_FALSE(Fits(RegexSpec("[a-c]+/\\d{2}"), "abcd/42"));
  EXPECT_TRUE(Fits(RegexSpec("a\\$"), "a$"));
  EXPECT_TRUE(Fits(RegexSpec("(über|日本語)"), "日本語"));
  EXPECT_EQ(Refused(RegexSpec("(")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Refused(RegexSpec("(?=a)b")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Refused(RegexSpec("a\\")).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Grammar, Choice) {
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kChoice;
  EXPECT_EQ(Refused(spec).code(), absl::StatusCode::kInvalidArgument);
  spec.items = {"positive", "pos", "\"quoted\" \\ \x7f", "日本"};
  for (const std::string& choice : spec.items) EXPECT_TRUE(Fits(spec, choice)) << choice;
  EXPECT_FALSE(Fits(spec, "posi"));
  EXPECT_FALSE(Fits(spec, ""));
  spec.items.emplace_back("");
  EXPECT_TRUE(Fits(spec, ""));
}

TEST(Grammar, Lark) {
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kLark;
  spec.text = "start: sum\nsum: NUMBER (\"+\" sum)?\nNUMBER: /[0-9]+/\n";
  EXPECT_TRUE(Fits(spec, "1+22+333"));
  EXPECT_FALSE(Fits(spec, "1+"));
  spec.after = "</think>";
  EXPECT_TRUE(Fits(spec, "so, 1 < 2.\n</think>1+2"));
  EXPECT_FALSE(Fits(spec, "1+2"));
  spec.after.clear();
  spec.text = "root ::= \"a\"";
  EXPECT_EQ(Refused(spec).code(), absl::StatusCode::kUnimplemented);
  spec.text = "start: missing\n";
  EXPECT_EQ(Refused(spec).code(), absl::StatusCode::kInvalidArgument);
  spec.text = "";
  EXPECT_EQ(Refused(spec).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Grammar, AfterAThought) {
  GrammarSpec spec = SchemaSpec(R"({"type":"boolean"})");
  spec.after = "</think>";
  EXPECT_TRUE(Fits(spec, "any {\"text\"} at all </thin </think>true"));
  EXPECT_FALSE(Fits(spec, "true"));
  EXPECT_FALSE(Fits(spec, "</think>tru"));
  spec.after = "<|im_start|>";  // a control token of this model: the marker is that token, and no text spells it
  EXPECT_TRUE(Fits(spec, "thought<|im_start|>false"));
  EXPECT_TRUE(Fits(spec, "<|im_start|>false"));
}

// Beyond each token border of a text, the token that the tokenizer has next is allowed, and so are its shorter ones.
TEST(Grammar, AllowsEveryWayToCutTheText) {
  const auto& smol = SmolGrammars();
  const std::string text = R"({"größe":"naïve 日本語 🙂 ok"})";
  const auto grammar = Compiled(SchemaSpec(R"({"type":"object","properties":{"größe":{"type":"string"}},
                                               "required":["größe"],"additionalProperties":false})"));
  Random random(7);
  for (int round = 0; round < 20; ++round) {
    const std::unique_ptr<Matcher> matcher = grammar->NewMatcher();
    size_t at = 0;
    while (at < text.size()) {
      std::vector<int32_t> fitting;
      for (const int32_t id : Allowed(*matcher, smol.vocab)) {
        const std::string bytes = smol.tokenizer->TokenBytes(id, true);
        if (!bytes.empty() && std::string_view(text).substr(at).starts_with(bytes)) fitting.push_back(id);
      }
      ASSERT_FALSE(fitting.empty()) << text.substr(0, at);
      const int32_t id = fitting[random.Below(static_cast<uint32_t>(fitting.size()))];
      ASSERT_TRUE(matcher->Accept(id).ok());
      at += smol.tokenizer->TokenBytes(id, true).size();
    }
    EXPECT_TRUE(matcher->CanEnd());
  }
}

TEST(Grammar, AfterTheEndOnlyEndTokens) {
  const auto& smol = SmolGrammars();
  const auto compiler = GrammarCompiler::Create(*smol.tokenizer, smol.vocab + 100, {smol.end, 0});
  ASSERT_TRUE(compiler.ok());
  EXPECT_GT((*compiler)->bytes(), size_t{1} << 20);
  EXPECT_GT((*compiler)->creation_time(), absl::ZeroDuration());
  const auto grammar = (*compiler)->Compile(RegexSpec("ab?"), GrammarLimits{});
  ASSERT_TRUE(grammar.ok());
  const std::unique_ptr<Matcher> matcher = (*grammar)->NewMatcher();
  EXPECT_EQ(matcher->Accept(smol.end).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(matcher->Accept(smol.tokenizer->TokenId("a")).ok());
  const std::vector<int32_t> allowed = Allowed(*matcher, smol.vocab + 100);
  EXPECT_EQ(allowed, (std::vector<int32_t>{0, smol.end, smol.tokenizer->TokenId("b")}));
  EXPECT_EQ(matcher->Accept(smol.tokenizer->TokenId("a")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Allowed(*matcher, smol.vocab + 100), allowed) << "a refusal changes nothing";
  ASSERT_TRUE(matcher->Accept(smol.end).ok());
  EXPECT_TRUE(matcher->CanEnd());
  EXPECT_EQ(Allowed(*matcher, smol.vocab + 100), (std::vector<int32_t>{0, smol.end}));
  EXPECT_EQ(matcher->Accept(smol.tokenizer->TokenId("b")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(matcher->Accept(0).ok());
}

TEST(Grammar, SmallerModelVocabulary) {
  const auto& smol = SmolGrammars();
  const int vocab = 1000;
  const auto compiler = GrammarCompiler::Create(*smol.tokenizer, vocab, {2});
  ASSERT_TRUE(compiler.ok());
  const auto grammar = (*compiler)->Compile(GrammarSpec{}, GrammarLimits{});
  ASSERT_TRUE(grammar.ok());
  const std::unique_ptr<Matcher> matcher = (*grammar)->NewMatcher();
  const std::vector<int32_t> allowed = Allowed(*matcher, vocab);
  EXPECT_FALSE(allowed.empty());
  EXPECT_EQ(matcher->Accept(vocab).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(matcher->Accept(-1).code(), absl::StatusCode::kInvalidArgument);
  std::vector<uint32_t> wrong(3);
  EXPECT_EQ(matcher->FillMask(wrong).code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(GrammarCompiler::Create(*smol.tokenizer, vocab, {}).ok());
  EXPECT_FALSE(GrammarCompiler::Create(*smol.tokenizer, 0, {2}).ok());
}

// A matcher is a pure function of (grammar, tokens): however it came to be, warm or cold, its masks are the same.
TEST(Grammar, CloneAndRebuild) {
  const auto& smol = SmolGrammars();
  const GrammarSpec spec = SchemaSpec(R"({"type":"object","properties":{"a":{"type":"array","items":{"type":"number"}},
      "b":{"anyOf":[{"type":"string"},{"type":"null"}]}},"required":["a","b"]})");
  const auto grammar = Compiled(spec);
  Random random(3);
  for (int round = 0; round < 10; ++round) {
    const std::unique_ptr<Matcher> matcher = grammar->NewMatcher();
    std::vector<int32_t> tokens;
    for (int step = 0; step < 25; ++step) {
      const std::vector<int32_t> allowed = Allowed(*matcher, smol.vocab);
      ASSERT_FALSE(allowed.empty());
      const std::unique_ptr<Matcher> clone = matcher->Clone();
      const std::unique_ptr<Matcher> rebuilt = (step % 5 == 0 ? Compiled(spec) : grammar)->NewMatcher();
      for (const int32_t token : tokens) ASSERT_TRUE(rebuilt->Accept(token).ok());
      EXPECT_EQ(Allowed(*clone, smol.vocab), allowed);
      EXPECT_EQ(Allowed(*rebuilt, smol.vocab), allowed);
      tokens.push_back(allowed[random.Below(static_cast<uint32_t>(allowed.size()))]);
      ASSERT_TRUE(matcher->Accept(tokens.back()).ok());
      ASSERT_TRUE(clone->Accept(allowed[0]).ok()) << "a clone goes its own way";
    }
  }
}

TEST(Grammar, RefusalsSayWhatAndWhere) {
  struct Case {
    std::string_view schema, words;
    absl::StatusCode code;
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto kUnsupported = absl::StatusCode::kUnimplemented;
  const auto kTooMuch = absl::StatusCode::kResourceExhausted;
  const std::vector<Case> cases = {
      {"{", "not JSON", kInvalid},
      {"[]", "not an object", kInvalid},
      {"false", "not an object", kInvalid},
      {R"({"type":"strin"})", "strin", kInvalid},
      {R"({"properties":{"a":{"not":{}}}})", "not at #/properties/a", kUnsupported},
      {R"({"type":"array","uniqueItems":true})", "uniqueItems", kUnsupported},
      {R"({"type":"string","format":"iri"})", "iri", kUnsupported},
      {R"({"$ref":"#/$defs/x"})", "leads nowhere", kInvalid},
      {R"({"$ref":"http://example.com/x"})", "only places in the schema", kUnsupported},
      {R"({"$ref":"#"})", "no value that ends", kInvalid},
      {R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}})", "no value that ends",
       kInvalid},
      {R"({"type":"object","properties":{"c":{"$ref":"#"}},"required":["c"]})", "no value that ends", kInvalid},
      {R"({"type":"array","minItems":1,"items":{"$ref":"#"}})", "no value that ends", kInvalid},
      {R"({"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]})", "oneOf at #", kUnsupported},
      {R"({"enum":[]})", "enum", kInvalid},
      {R"({"const":9007199254740993})", "2^53", kUnsupported},
      {R"({"type":"number","multipleOf":0})", "multipleOf", kInvalid},
      {R"({"type":"string","pattern":"(?<=a)b"})", "", kInvalid},
      {R"({"type":"string","minLength":5,"maxLength":3})", "minLength", kInvalid},
      {R"({"type":"array","maxItems":1000000000000})", "maxItems", kTooMuch},
      {R"({"type":"string","maxLength":1000000000000})", "maxLength", kTooMuch},
  };
  for (const Case& c : cases) {
    const absl::Status status = Refused(SchemaSpec(c.schema));
    EXPECT_EQ(status.code(), c.code) << c.schema << ": " << status;
    EXPECT_NE(std::string(status.message()).find(c.words), std::string::npos) << c.schema << ": " << status;
  }
}

TEST(Grammar, OneOfThatIsToldApart) {
  const GrammarSpec spec = SchemaSpec(R"({"oneOf":[{"$ref":"#/$defs/cat"},{"$ref":"#/$defs/dog"}],"$defs":{
      "cat":{"type":"object","properties":{"kind":{"const":"cat"},"lives":{"type":"integer"}},"required":["kind"]},
      "dog":{"type":"object","properties":{"kind":{"const":"dog"},"name":{"type":"string"}},"required":["kind"]}}})");
  EXPECT_TRUE(Fits(spec, R"({"kind":"cat","lives":9})"));
  EXPECT_TRUE(Fits(spec, R"({"kind":"dog","name":"Rex"})"));
  EXPECT_FALSE(Fits(spec, R"({"kind":"cat","name":"Rex"})"));
}

TEST(GrammarSpec, KeysTellSpecsApart) {
  GrammarSpec a = SchemaSpec("{}"), b = RegexSpec("{}"), c = a, d = a, e = a, f = a;
  c.after = "x";
  d.items = {"x"};
  e.white_space = GrammarSpec::WhiteSpace::kAny;
  f.text = "{}x";
  std::vector<std::string> keys = {a.Key(), b.Key(), c.Key(), d.Key(), e.Key(), f.Key()};
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()), keys.end());
  EXPECT_EQ(a.Key(), SchemaSpec("{}").Key());
}

}  // namespace
}  // namespace shoal::text
