// What a parser holds back and how often it looks at a byte: bounded, whatever the answer.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/text/output_corpus.h"

namespace shoal::text {
namespace {

using Kind = OutputEvent::Kind;

std::string Repeat(const std::string& part, size_t size) {
  std::string text;
  while (text.size() < size) text += part;
  return text;
}

struct Work {
  int64_t steps = 0;
  size_t max_held = 0;  // bytes that came and are in no event yet
};

Work Measure(const OutputFormat& format, const std::string& text, size_t piece) {
  OutputParser parser(format);
  std::vector<OutputEvent> events;
  Work work;
  size_t said = 0;
  for (size_t i = 0; i < text.size(); i += piece) {
    events.clear();
    parser.Push(std::string_view(text).substr(i, piece), &events);
    for (const OutputEvent& event : events) said += event.text.size();
    work.max_held = std::max(work.max_held, std::min(i + piece, text.size()) - said);
  }
  parser.Finish(&events);
  work.steps = parser.steps();
  return work;
}

constexpr OutputFormat kHermes{ToolFormat::kHermes, ReasoningFormat::kQwen3};
constexpr size_t kMegabyte = 1 << 20;
constexpr size_t kPiece = 61;  // bytes, for what need not be looked at byte by byte

struct Long {
  const char* what;
  OutputFormat format;
  std::string text;
};

std::vector<Long> LongAnswers() {
  const std::string f = R"({"name":"f","arguments":)";
  return {
      {"text", kHermes, Repeat("Hello, < world. ", kMegabyte)},
      {"a thought", kHermes, "<think>" + Repeat("Hm, </thin", kMegabyte)},
      {"markers", kHermes, Repeat("<tool_call>", kMegabyte)},
      {"beginnings of calls", kHermes, Repeat(R"(<tool_call>{"name":"f",)", kMegabyte)},
      {"small calls", kHermes, Repeat("<tool_call>" + f + "{}}</tool_call>", kMegabyte)},
      {"a large call", kHermes, "<tool_call>" + f + R"({"a":")" + Repeat("text \\n ", kMegabyte) + "\"}}"},
      {"an unwrapped one", kHermes,
       "<tool_call>" + f + R"("{\"a\":\")" + Repeat("text \\\\n ", kMegabyte) + R"(\"}"})"},
      {"depth", kHermes, "<tool_call>" + f + Repeat("[", kMegabyte)},
      {"arguments without a name", kHermes, R"(<tool_call>{"arguments":{"a":")" + Repeat("text ", kMegabyte)},
      {"depth without a name", kHermes, R"(<tool_call>{"arguments":)" + Repeat("{\"a\":", kMegabyte)},
      {"arguments first, often", kHermes,
       Repeat("<tool_call>{\"arguments\":\"" + std::string(200000, 'x') + "\",\"name\":\"f\"}", kMegabyte)},
      {"arguments without a name, often", kHermes,
       Repeat("<tool_call>{\"arguments\":\"" + std::string(200000, 'x') + "\"}", kMegabyte)},
      {"a name", kHermes, R"(<tool_call>{"name":")" + Repeat("x", kMegabyte)},
      {"a key", kHermes, R"(<tool_call>{")" + Repeat("x", kMegabyte)},
      {"another value", kHermes, R"(<tool_call>{"id":")" + Repeat("x", kMegabyte)},
      {"spaces in a call", kHermes, R"(<tool_call>{"name")" + Repeat(" ", kMegabyte)},
      {"spaces", kHermes, Repeat(" ", kMegabyte)},
      {"a name for Mistral", {ToolFormat::kMistral}, "[TOOL_CALLS]" + Repeat("x", kMegabyte)},
      {"an id for Mistral", {ToolFormat::kMistral}, "[TOOL_CALLS]f[CALL_ID]" + Repeat("x", kMegabyte)},
      {"marks for Mistral", {ToolFormat::kMistral}, "[TOOL_CALLS]f" + Repeat("[ARGS]", kMegabyte)},
      {"a list of numbers", {ToolFormat::kGeneric}, Repeat("[1, ", kMegabyte)},
      {"an object", {ToolFormat::kLlama3Json}, R"({"type":)" + Repeat("{\"a\":", kMegabyte)},
  };
}

TEST(OutputLimits, TimeIsLinearWhateverThePieces) {
  for (const Long& answer : LongAnswers()) {
    const int64_t whole = Measure(answer.format, answer.text, answer.text.size()).steps;
    const int64_t bytes = Measure(answer.format, answer.text, 1).steps;
    EXPECT_EQ(bytes, whole) << answer.what;
    EXPECT_LE(whole, 4 * static_cast<int64_t>(answer.text.size()) + 1000) << answer.what;
  }
}

// In an answer without calls, what no event shows is held back. With calls, their frames are gone as well.
TEST(OutputLimits, LittleIsHeldBack) {
  for (const Long& answer : LongAnswers()) {
    const std::vector<OutputEvent> says = Parse(answer.format, {answer.text});
    const bool calls = std::any_of(says.begin(), says.end(), [](const auto& e) { return e.kind == Kind::kCallBegins; });
    const bool arguments_first = answer.text.find("\"arguments\":") < answer.text.find("\"name\":");
    const size_t limit = OutputParser::kMaxHeld + (arguments_first ? OutputParser::kMaxHeldArguments : 0) + kPiece;
    EXPECT_TRUE(calls || Measure(answer.format, answer.text, kPiece).max_held <= limit) << answer.what;
  }
}

// And what needs more than that is content, as it stands.
TEST(OutputLimits, WhatIsTooLongIsContent) {
  const std::string large(OutputParser::kMaxHeldArguments, 'x');
  for (const std::string& text : {
           R"(<tool_call>{"arguments":{"a":")" + large + R"("},"name":"f"}</tool_call>)",
           R"(<tool_call>{"name":")" + std::string(257, 'x') + R"(","arguments":{}}</tool_call>)",
           R"(<tool_call>{"id":")" + std::string(OutputParser::kMaxHeld, 'x') + R"(","name":"f"}</tool_call>)",
           "<tool_call>" + std::string(OutputParser::kMaxHeld, ' ') + R"({"name":"f"}</tool_call>)",
       }) {
    const std::vector<OutputEvent> content = {{Kind::kContent, -1, text}};
    EXPECT_EQ(Parse(kHermes, {text}), content) << text.size();
  }
}

TEST(OutputLimits, WhatIsJustNotTooLongIsACall) {
  const std::string name(256, 'x');
  const std::string arguments = R"({"a":")" + std::string(OutputParser::kMaxHeldArguments - 100, 'x') + R"("})";
  const std::vector<OutputEvent> call = {{Kind::kCallBegins, 0, name}, {Kind::kArguments, 0, arguments}};
  EXPECT_EQ(Parse(kHermes, {R"(<tool_call>{"arguments":)" + arguments + R"(,"name":")" + name + R"("}</tool_call>)"}),
            call);
  EXPECT_EQ(Parse(kHermes, {R"(<tool_call>{"name":")" + name + R"(","arguments":)" + arguments + "}</tool_call>"}),
            call);
}

// An answer in JSON, where calls are written in JSON too, comes as soon as it can be told apart.
TEST(OutputLimits, JsonThatIsNoCallComesAtOnce) {
  for (const ToolFormat tools : {ToolFormat::kLlama3Json, ToolFormat::kGeneric}) {
    OutputParser parser({tools});
    std::vector<OutputEvent> events;
    parser.Push(R"({"answer")", &events);
    const std::vector<OutputEvent> content = {{Kind::kContent, -1, R"({"answer")"}};
    EXPECT_EQ(events, content);
  }
}

// So do arguments: each byte of them is out before the next is there, but where an escape or "null" is not complete.
TEST(OutputLimits, ArgumentsComeAtOnce) {
  OutputParser parser(kHermes);
  std::vector<OutputEvent> events;
  parser.Push(R"(<tool_call>{"name":"f","arguments":)", &events);
  EXPECT_TRUE(events.empty());
  EXPECT_EQ(parser.calls(), 0);
  for (const char byte : std::string(R"({"a":[1,"\u00e9"]})")) {
    parser.Push({&byte, 1}, &events);
    ASSERT_EQ(events.back().kind, Kind::kArguments);
    EXPECT_EQ(events.back().text, std::string(1, byte));
    events.clear();
  }
  EXPECT_EQ(parser.calls(), 1);
}

}  // namespace
}  // namespace shoal::text
