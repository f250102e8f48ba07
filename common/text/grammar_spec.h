// What an answer must look like. A value; its bytes (Key) are its identity.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::text {

// How calls of functions are written: first, then before CALL after, between, before CALL after, ..., last, where CALL
// is {"name": "...", "<arguments_key>": {...}}.
struct CallShape {
  std::string first, before, after, between, last;
  std::string arguments_key = "arguments";
  uint32_t most = 0;           // calls; 0: any number
  bool optional = false;       // text without a call is fine as well
  bool only_at_start = false;  // where the answer begins or not at all; text is told from calls by its first character
  bool repeats = false;        // text and calls may alternate
};

struct GrammarSpec {
  enum class Kind : uint8_t {
    kJsonObject,  // any JSON object
    kJsonSchema,  // text: the schema
    kRegex,       // text: a regular expression that the whole answer matches (Rust's syntax, no look-around)
    kChoice,      // items: the answers to choose from
    kLark,        // text: a grammar in llguidance's variant of Lark; begins at the rule `start`
    kCalls,       // items: name, parameters' schema, name, schema, ...; calls: their shape
  };
  // Between the parts of a JSON value.
  enum class WhiteSpace : uint8_t {
    kNone,    // {"a":1,"b":2}: as OpenAI's models write it
    kSingle,  // {"a": 1, "b": 2}: as Python's json.dumps, and most models' calls
    kAny,     // as the model likes, without bound
  };
  Kind kind = Kind::kJsonObject;
  WhiteSpace white_space = WhiteSpace::kNone;
  std::string text;
  std::vector<std::string> items;
  std::string after;  // the end of a thought: any text up to and with it comes first; empty: none
  CallShape calls;

  // Equal for equal specs only.
  std::string Key() const;
};

struct ToolFunction {
  std::string name;
  std::string parameters;  // JSON schema; empty: any object
};
struct ToolChoice {
  enum class Mode : uint8_t { kAuto, kRequired, kNamed };
  Mode mode = Mode::kAuto;
  std::string name;      // of kNamed: called once
  bool parallel = true;  // several calls are fine
};

// The spec that lets (kAuto) or makes (else) a model call functions, arguments by their schemas, in one of the formats
// of vLLM's --tool-call-parser: "hermes", "llama3_json", "mistral", "phi4_mini_json", "generic". InvalidArgument: no
// such format or function, a function twice or without a name.
absl::StatusOr<GrammarSpec> ToolCallGrammar(std::string_view format, const std::vector<ToolFunction>& functions,
                                            const ToolChoice& choice);

}  // namespace shoal::text
