// Names of formats, what chat templates ask for, and prompts that end within a thought.
#include "common/text/output_format.h"

#include <gtest/gtest.h>

#include <string>

namespace shoal::text {
namespace {

TEST(OutputFormat, EveryFormatHasANameOfItsOwn) {
  for (int i = 0; i < 6; ++i) {
    const auto format = static_cast<ToolFormat>(i);
    EXPECT_EQ(ToolFormatByName(NameOf(format)), format);
  }
  for (int i = 0; i < 4; ++i) {
    const auto format = static_cast<ReasoningFormat>(i);
    EXPECT_EQ(ReasoningFormatByName(NameOf(format)), format);
  }
  EXPECT_EQ(NameOf(ToolFormat::kLlama3Json), "llama3_json");
  EXPECT_EQ(NameOf(ReasoningFormat::kDeepSeekR1), "deepseek_r1");
  EXPECT_FALSE(ToolFormatByName("pythonic").has_value());
  EXPECT_FALSE(ReasoningFormatByName("granite").has_value());
  EXPECT_FALSE(ToolFormatByName("").has_value());
}

TEST(StartsInReasoning, PromptsThatEndWithTheMarker) {
  const std::string qwen = "<|im_start|>assistant\n";
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kQwen3, qwen));
  EXPECT_TRUE(StartsInReasoning(ReasoningFormat::kQwen3, qwen + "<think>\n"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kQwen3, qwen + "<think>\n\n</think>\n\n"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kNone, qwen + "<think>\n"));
  EXPECT_TRUE(StartsInReasoning(ReasoningFormat::kMistral, "[INST]x[/INST][THINK]"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kMistral, "[INST]x[/INST]<think>"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kQwen3, ""));
}

TEST(StartsInReasoning, R1BeginsWithinUnlessThePromptEndedIt) {
  EXPECT_TRUE(StartsInReasoning(ReasoningFormat::kDeepSeekR1, "<|Assistant|>"));
  EXPECT_TRUE(StartsInReasoning(ReasoningFormat::kDeepSeekR1, "<|Assistant|><think>\n"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kDeepSeekR1, "<|Assistant|><think>\n\n</think>\n\n"));
}

TEST(StartsInReasoning, TheUsersWordsDoNotCount) {
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kQwen3, "What is <think>?<|im_end|>\n<|im_start|>assistant\n"));
}

TEST(StartsInReasoning, ContinuedMessages) {
  const auto starts = [](std::string_view prompt, std::string_view continued) {
    return StartsInReasoning(ReasoningFormat::kQwen3, prompt, continued);
  };
  EXPECT_TRUE(starts("user\nassistant\n<think>\nSo I", "<think>\nSo I"));
  EXPECT_TRUE(starts("user\nassistant\n<think>\nSo I", "So I"));
  EXPECT_TRUE(starts("user\nassistant\n<think>\nSo I", "So I \n"));
  EXPECT_FALSE(starts("user\nassistant\n<think>\nSo I\n</think>\n\nIt", "<think>\nSo I\n</think>\n\nIt"));
  EXPECT_FALSE(starts("user\nassistant\n<think>\n\n</think>\n\nIt", "It"));
  EXPECT_FALSE(starts("user\nassistant\nIt", "It"));
  EXPECT_FALSE(StartsInReasoning(ReasoningFormat::kDeepSeekR1, "<|Assistant|>It", "It"));
}

// The lines of published templates that say how the model is to write its calls.
TEST(GuessToolFormat, PublishedTemplates) {
  const struct {
    const char* model;
    const char* text;
    ToolFormat format;
  } kTemplates[] = {
      {"Qwen 2.5 and 3",
       R"({{- '\n<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- '}\n</tool_call>' }})",
       ToolFormat::kHermes},
      {"Hermes 2 Pro",
       R"({{ '{"arguments": <args-dict>, "name": <function-name>}\n' }}{{ '</tool_call>' }})"
       R"({{ '\n<tool_call>\n' }})",
       ToolFormat::kHermes},
      {"Llama 3.1",
       R"({{- "<|python_tag|>" + tool_call.name + ".call(" }}{{- '{"name": "' + tool_call.name + '", ' }})"
       R"({{- '"parameters": ' }})",
       ToolFormat::kLlama3Json},
      {"Llama 3.2",
       R"({{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}})"
       R"({{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }})",
       ToolFormat::kLlama3Json},
      {"Mistral 7B v0.3", R"({{- "[TOOL_CALLS] [" }}{%- set out = tool_call.function|tojson %})", ToolFormat::kMistral},
      {"Mistral Small 3.2", R"({{- "[TOOL_CALLS]" + tool_call.function.name + "[ARGS]" + arguments }})",
       ToolFormat::kMistral},
      {"Phi-4-mini",
       R"({{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] +)"
       R"( '<|/tool|>' + '<|end|>' }})",
       ToolFormat::kPhi4MiniJson},
      {"vLLM's for Phi-4-mini",
       "In addition to plain text responses, you can chose to call one or more of the provided "
       "functions.\nfunctools[{\"name\": <function name>}]",
       ToolFormat::kPhi4MiniJson},
      {"Qwen3-Coder", R"({{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }})", ToolFormat::kNone},
      {"GLM-4.5", R"({{ '\n<tool_call>' + tc.name }}<arg_key>{{ k }}</arg_key>)", ToolFormat::kNone},
      {"Llama 3.2, told to write Python",
       R"({{- "[func_name1(params_name1=params_value1)]" }}<|start_header_id|>)"
       R"({{- '"parameters": ' }})",
       ToolFormat::kNone},
      {"SmolLM2", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% endfor %}",
       ToolFormat::kNone},
      {"Llama 3", "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}", ToolFormat::kNone},
      {"none", "", ToolFormat::kNone},
  };
  for (const auto& row : kTemplates) EXPECT_EQ(NameOf(GuessToolFormat(row.text)), NameOf(row.format)) << row.model;
}

}  // namespace
}  // namespace shoal::text
