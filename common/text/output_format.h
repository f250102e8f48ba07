// In which shapes models write calls of tools and thoughts; by vLLM's names of --tool-call-parser, --reasoning-parser.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace shoal::text {

// An object is {"name": ..., "arguments": {...}} in any order of keys; "parameters" is a synonym of "arguments".
enum class ToolFormat : uint8_t {
  kNone,          // "none": all is content
  kHermes,        // "hermes": <tool_call>object</tool_call>, several
  kLlama3Json,    // "llama3_json": <|python_tag|>object;object, or without the tag, as the beginning of the answer
  kMistral,       // "mistral": [TOOL_CALLS][object,object], [TOOL_CALLS]name{...}, [TOOL_CALLS]name[ARGS]{...}
  kPhi4MiniJson,  // "phi4_mini_json": functools[object,object]
  kGeneric,       // "generic": [object,object] as the beginning of the answer; a grammar can force it on every model
};

enum class ReasoningFormat : uint8_t {
  kNone,        // "none": all is content
  kDeepSeekR1,  // "deepseek_r1": <think>...</think>; answers begin within
  kQwen3,       // "qwen3": <think>...</think> or no thoughts
  kMistral,     // "mistral": [THINK]...[/THINK] or no thoughts
};

struct OutputFormat {
  ToolFormat tools = ToolFormat::kNone;
  ReasoningFormat reasoning = ReasoningFormat::kNone;
  bool starts_in_reasoning = false;  // the answer begins within a thought: StartsInReasoning
};

// Nothing for a name that is none of the above.
std::optional<ToolFormat> ToolFormatByName(std::string_view name);
std::optional<ReasoningFormat> ReasoningFormatByName(std::string_view name);
std::string_view NameOf(ToolFormat format);
std::string_view NameOf(ReasoningFormat format);

// Which format a chat template (Jinja) asks the model for, by its markers; kNone when it shows none that is known here.
ToolFormat GuessToolFormat(std::string_view chat_template);

// Whether the answer to this rendered prompt begins within a thought: the prompt ends with the opening marker, or, for
// deepseek_r1, does not end with the closing one. Markers elsewhere may be the user's words and do not count.
// `continued`: the text of the message that the answer continues (continue_final_message), else empty; its own markers
// decide, and it is content unless it or the prompt before it opens a thought.
bool StartsInReasoning(ReasoningFormat format, std::string_view prompt, std::string_view continued = {});

}  // namespace shoal::text
