// What whole chat templates write for a call is what the parser of the format guessed from them reads.
#include <gtest/gtest.h>

#include <map>

#include "tests/text/fixture.h"
#include "tests/text/output_corpus.h"

namespace shoal::text {
namespace {

using Kind = OutputEvent::Kind;

struct Turn {
  std::string_view begin, end;  // around what the model writes
};
const std::map<ToolFormat, Turn> kTurns = {
    {ToolFormat::kHermes, {"<|im_start|>assistant\n", "<|im_end|>"}},
    {ToolFormat::kLlama3Json, {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"}},
};

TEST(OutputTemplate, CallsComeBack) {
  const std::vector<OutputEvent> call = {{Kind::kCallBegins, 0, "get_weather"},
                                         {Kind::kArguments, 0, R"({"city": "서울", "days": 2, "q": "a\"b\n"})"}};
  std::map<ToolFormat, int> read;
  for (const testing::TemplateCase& row : testing::ReadTemplateAnswers().cases) {
    const ToolFormat format = GuessToolFormat(row.source);
    if (format == ToolFormat::kNone || row.context.find("tool_calls") == std::string::npos) continue;
    const auto turn = kTurns.find(format);
    ASSERT_NE(turn, kTurns.end()) << row.name << ": " << NameOf(format);
    const size_t begin = row.rendered.find(turn->second.begin) + turn->second.begin.size();
    const size_t end = row.rendered.find(turn->second.end, begin);
    ASSERT_NE(end, std::string::npos) << row.name;
    const OutputFormat whole{format, ReasoningFormat::kQwen3};
    EXPECT_EQ(Parse(whole, Bytes(row.rendered.substr(begin, end - begin))), call) << row.name;
    ++read[format];
  }
  for (const auto& [format, turn] : kTurns) EXPECT_GT(read[format], 0) << NameOf(format);
}

// Qwen's closes the thought in the prompt when told not to think; none of them opens one.
TEST(OutputTemplate, PromptsThatEndWithinAThought) {
  int closed = 0;
  for (const testing::TemplateCase& row : testing::ReadTemplateAnswers().cases) {
    EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kQwen3, row.rendered)) << row.name;
    const bool ends = row.rendered.size() > 10 && row.rendered.rfind("</think>") == row.rendered.size() - 10;
    EXPECT_EQ(StartsInReasoning(ReasoningFormat::kDeepSeekR1, row.rendered), !ends) << row.name;
    closed += ends ? 1 : 0;
  }
  EXPECT_GT(closed, 0);
}

}  // namespace
}  // namespace shoal::text
