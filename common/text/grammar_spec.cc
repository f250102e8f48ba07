// Grammar specs: identity, and the shapes of tool calls.
// Tested by: tests/text/grammar_test.cc, tests/text/grammar_tools_test.cc
#include "common/text/grammar_spec.h"

#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace shoal::text {
namespace {

void Append(std::string& key, const std::string& part) { absl::StrAppend(&key, part.size(), ":", part); }

// As the models' own templates write them.
absl::StatusOr<CallShape> ShapeOf(std::string_view format) {
  CallShape shape;
  if (format == "hermes") {
    shape.before = "<tool_call>\n";
    shape.after = "\n</tool_call>";
    shape.between = "\n";
    shape.repeats = true;
  } else if (format == "llama3_json") {
    shape.between = "; ";
    shape.arguments_key = "parameters";
    shape.only_at_start = true;
  } else if (format == "mistral") {
    shape.first = "[TOOL_CALLS][";
    shape.between = ", ";
    shape.last = "]";
  } else if (format == "phi4_mini_json") {
    shape.first = "functools[";
    shape.between = ", ";
    shape.last = "]";
  } else if (format == "generic") {
    shape.first = "[";
    shape.between = ", ";
    shape.last = "]";
    shape.only_at_start = true;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("no format of tool calls has the name '", std::string(format), "'"));
  }
  return shape;
}

}  // namespace

std::string GrammarSpec::Key() const {
  std::string key = absl::StrCat(static_cast<int>(kind), ",", static_cast<int>(white_space), ",", calls.most, ",",
                                 static_cast<int>(calls.optional), static_cast<int>(calls.only_at_start),
                                 static_cast<int>(calls.repeats), ",", items.size(), ",");
  for (const std::string* part :
       {&text, &after, &calls.first, &calls.before, &calls.after, &calls.between, &calls.last, &calls.arguments_key}) {
    Append(key, *part);
  }
  for (const std::string& item : items) Append(key, item);
  return key;
}

absl::StatusOr<GrammarSpec> ToolCallGrammar(std::string_view format, const std::vector<ToolFunction>& functions,
                                            const ToolChoice& choice) {
  absl::StatusOr<CallShape> shape = ShapeOf(format);
  if (!shape.ok()) return shape.status();
  const bool named = choice.mode == ToolChoice::Mode::kNamed;
  GrammarSpec spec;
  spec.kind = GrammarSpec::Kind::kCalls;
  spec.white_space = GrammarSpec::WhiteSpace::kSingle;
  spec.calls = *std::move(shape);
  spec.calls.optional = choice.mode == ToolChoice::Mode::kAuto;
  spec.calls.most = named || !choice.parallel ? 1 : 0;
  std::set<std::string_view> names;
  for (const ToolFunction& function : functions) {
    if (function.name.empty()) return absl::InvalidArgumentError("a function has no name");
    if (!names.insert(function.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("the function '", function.name, "' is given twice"));
    }
    if (named && function.name != choice.name) continue;
    spec.items.push_back(function.name);
    spec.items.push_back(function.parameters);
  }
  if (spec.items.empty()) {
    return absl::InvalidArgumentError(
        named ? absl::StrCat("the function to call, '", choice.name, "', is not among those given")
              : std::string("no functions are given to call"));
  }
  return spec;
}

}  // namespace shoal::text
