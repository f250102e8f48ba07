// Tool calls: what each format's grammar takes and refuses, forced and not.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/text/grammar_fixture.h"

namespace shoal::text {
namespace {

using testing::Matches;
using testing::SmolGrammars;

using Mode = ToolChoice::Mode;

const std::vector<ToolFunction>& Functions() {
  static const auto* const functions = new std::vector<ToolFunction>{
      {"get_weather",
       R"({"type":"object","properties":{"city":{"$ref":"#/$defs/c"}},"required":["city"],"$defs":{"c":{"type":"string"}}})"},
      {"now", ""}};
  return *functions;
}

bool Fits(std::string_view format, const ToolChoice& choice, std::string_view text) {
  const auto spec = ToolCallGrammar(format, Functions(), choice);
  EXPECT_TRUE(spec.ok()) << spec.status();
  const auto grammar = SmolGrammars().compiler->Compile(*spec, GrammarLimits{});
  EXPECT_TRUE(grammar.ok()) << grammar.status();
  return grammar.ok() && Matches(SmolGrammars(), **grammar, text);
}

struct Format {
  std::string_view name, one, two, bad_arguments, unknown;
};
const Format kFormats[] = {
    {"hermes", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
     "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n"
     "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
     "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 1}}\n</tool_call>",
     "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"},
    {"llama3_json", R"({"name": "get_weather", "parameters": {"city": "Paris"}})",
     R"({"name": "now", "parameters": {}}; {"name": "now", "parameters": {}})",
     R"({"name": "get_weather", "parameters": {}})", R"({"name": "other", "parameters": {}})"},
    {"mistral", R"([TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}])",
     R"([TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}])",
     R"([TOOL_CALLS][{"name": "get_weather", "arguments": {"town": "Paris"}}])",
     R"([TOOL_CALLS][{"name": "other", "arguments": {}}])"},
    {"phi4_mini_json", R"(functools[{"name": "get_weather", "arguments": {"city": "Paris"}}])",
     R"(functools[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}])",
     R"(functools[{"name": "get_weather", "arguments": []}])", R"(functools[{"name": "other", "arguments": {}}])"},
    {"generic", R"([{"name": "get_weather", "arguments": {"city": "Paris"}}])",
     R"([{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}])",
     R"([{"name": "get_weather", "arguments": {"city": null}}])", R"([{"name": "other", "arguments": {}}])"},
};

TEST(ToolCallGrammar, Required) {
  for (const Format& format : kFormats) {
    const ToolChoice choice = {.mode = Mode::kRequired, .name = ""};
    EXPECT_TRUE(Fits(format.name, choice, format.one)) << format.name;
    EXPECT_TRUE(Fits(format.name, choice, format.two)) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, format.bad_arguments)) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, format.unknown)) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, "It is sunny.")) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, "")) << format.name;
    const ToolChoice single = {.mode = Mode::kRequired, .name = "", .parallel = false};
    EXPECT_TRUE(Fits(format.name, single, format.one)) << format.name;
    EXPECT_FALSE(Fits(format.name, single, format.two)) << format.name;
  }
}

TEST(ToolCallGrammar, Named) {
  for (const Format& format : kFormats) {
    const ToolChoice weather = {.mode = Mode::kNamed, .name = "get_weather", .parallel = true},
                     now = {.mode = Mode::kNamed, .name = "now", .parallel = true};
    EXPECT_TRUE(Fits(format.name, weather, format.one)) << format.name;
    EXPECT_FALSE(Fits(format.name, now, format.one)) << format.name;
    EXPECT_FALSE(Fits(format.name, now, format.two)) << format.name << ": a named function is called once";
  }
}

TEST(ToolCallGrammar, Auto) {
  for (const Format& format : kFormats) {
    const ToolChoice choice;
    EXPECT_TRUE(Fits(format.name, choice, format.one)) << format.name;
    EXPECT_TRUE(Fits(format.name, choice, format.two)) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, format.bad_arguments)) << format.name;
    EXPECT_FALSE(Fits(format.name, choice, format.unknown)) << format.name;
    EXPECT_TRUE(Fits(format.name, choice, "It is sunny (a < b, \"c\", x[0]).\n")) << format.name;
    EXPECT_TRUE(Fits(format.name, choice, "")) << format.name;
  }
  EXPECT_TRUE(Fits("hermes", {},
                   std::string("I look.\n") + std::string(kFormats[0].one) + " And: " + std::string(kFormats[0].two) +
                       "\nThat is all."));
  EXPECT_FALSE(Fits("hermes", {}, "text <tool_call> of its own"));
  EXPECT_TRUE(Fits("mistral", {}, std::string("I look. ") + std::string(kFormats[2].one)));
}

TEST(ToolCallGrammar, AfterAThought) {
  auto spec = ToolCallGrammar("generic", Functions(), {.mode = Mode::kRequired, .name = ""});
  ASSERT_TRUE(spec.ok());
  spec->after = "</think>";
  const auto grammar = SmolGrammars().compiler->Compile(*spec, GrammarLimits{});
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  EXPECT_TRUE(Matches(SmolGrammars(), **grammar, std::string("hm [1]</think>") + std::string(kFormats[4].one)));
  EXPECT_FALSE(Matches(SmolGrammars(), **grammar, kFormats[4].one));
}

TEST(ToolCallGrammar, Refusals) {
  const auto code = [](std::string_view format, std::vector<ToolFunction> functions, const ToolChoice& choice) {
    return ToolCallGrammar(format, functions, choice).status().code();
  };
  EXPECT_EQ(code("none", Functions(), {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("hermes", {}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("hermes", {{"", ""}}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("hermes", {{"a", ""}, {"a", ""}}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("hermes", Functions(), {.mode = Mode::kNamed, .name = "x", .parallel = true}),
            absl::StatusCode::kInvalidArgument);
  const auto spec = ToolCallGrammar("hermes", {{"f", R"({"not":{}})"}}, {});
  ASSERT_TRUE(spec.ok());
  const auto grammar = SmolGrammars().compiler->Compile(*spec, GrammarLimits{});
  EXPECT_EQ(grammar.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(std::string(grammar.status().message()).find("the parameters of \"f\""), std::string::npos)
      << grammar.status();
}

}  // namespace
}  // namespace shoal::text
