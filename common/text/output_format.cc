#include "common/text/output_format.h"

#include <cstddef>

#include "common/text/json_scan.h"
#include "common/text/reasoning_splitter.h"

namespace shoal::text {
namespace {

template <typename Format>
struct Named {
  std::string_view name;
  Format format;
};

constexpr Named<ToolFormat> kTools[] = {
    {"none", ToolFormat::kNone},       {"hermes", ToolFormat::kHermes},
    {"mistral", ToolFormat::kMistral}, {"llama3_json", ToolFormat::kLlama3Json},
    {"generic", ToolFormat::kGeneric}, {"phi4_mini_json", ToolFormat::kPhi4MiniJson},
};

constexpr Named<ReasoningFormat> kReasonings[] = {
    {"none", ReasoningFormat::kNone},
    {"deepseek_r1", ReasoningFormat::kDeepSeekR1},
    {"qwen3", ReasoningFormat::kQwen3},
    {"mistral", ReasoningFormat::kMistral},
};

template <typename Format, size_t kSize>
std::optional<Format> Find(const Named<Format> (&table)[kSize], std::string_view name) {
  for (const Named<Format>& row : table) {
    if (row.name == name) return row.format;
  }
  return std::nullopt;
}

template <typename Format, size_t kSize>
std::string_view Find(const Named<Format> (&table)[kSize], Format format) {
  for (const Named<Format>& row : table) {
    if (row.format == format) return row.name;
  }
  return "";
}

// What a template says when its model writes calls in that format; the first row whose marks it has decides.
constexpr struct {
  std::string_view mark, also;
  ToolFormat format;
} kMarks[] = {
    {"[TOOL_CALLS]", "", ToolFormat::kMistral},
    {"functools", "", ToolFormat::kPhi4MiniJson},
    {"<|tool_call|>", "", ToolFormat::kPhi4MiniJson},
    {"<|/tool|>", "", ToolFormat::kPhi4MiniJson},
    {"<function=", "", ToolFormat::kNone},  // Qwen3-Coder and others: XML, often within <tool_call>
    {"<arg_key>", "", ToolFormat::kNone},   // GLM-4.5: XML within <tool_call>
    {"<tool_call>", "", ToolFormat::kHermes},
    {"func_name1(", "", ToolFormat::kNone},  // Llama, told to write Python
    {"<|python_tag|>", "", ToolFormat::kLlama3Json},
    {"<|start_header_id|>", "\"parameters\": ", ToolFormat::kLlama3Json},  // 3.2: no tools of its own, so no tag
    {"<|header_start|>", "\"parameters\": ", ToolFormat::kLlama3Json},     // Llama 4
};

std::string_view TrimEnd(std::string_view text) {
  while (!text.empty() && IsJsonSpace(text.back())) text.remove_suffix(1);
  return text;
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

std::optional<ToolFormat> ToolFormatByName(std::string_view name) { return Find(kTools, name); }
std::optional<ReasoningFormat> ReasoningFormatByName(std::string_view name) { return Find(kReasonings, name); }
std::string_view NameOf(ToolFormat format) { return Find(kTools, format); }
std::string_view NameOf(ReasoningFormat format) { return Find(kReasonings, format); }

ToolFormat GuessToolFormat(std::string_view chat_template) {
  const auto has = [chat_template](std::string_view mark) {
    return chat_template.find(mark) != std::string_view::npos;
  };
  for (const auto& row : kMarks) {
    if (has(row.mark) && has(row.also)) return row.format;
  }
  return ToolFormat::kNone;
}

bool StartsInReasoning(ReasoningFormat format, std::string_view prompt, std::string_view continued) {
  const ReasoningMarkers markers = MarkersOf(format);
  if (format == ReasoningFormat::kNone) return false;
  prompt = TrimEnd(prompt);
  continued = TrimEnd(continued);
  if (!continued.empty() && EndsWith(prompt, continued)) {
    const size_t open = continued.rfind(markers.open);
    const size_t close = continued.rfind(markers.close);
    if (close != std::string_view::npos) return open != std::string_view::npos && open > close;
    if (open != std::string_view::npos) return true;
    return EndsWith(TrimEnd(prompt.substr(0, prompt.size() - continued.size())), markers.open);
  }
  if (EndsWith(prompt, markers.open)) return true;
  return format == ReasoningFormat::kDeepSeekR1 && !EndsWith(prompt, markers.close);
}

}  // namespace shoal::text
