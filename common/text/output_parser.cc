#include "common/text/output_parser.h"

#include "common/text/reasoning_splitter.h"
#include "common/text/tool_call_parser.h"

namespace shoal::text {

struct OutputParser::State {
  explicit State(const OutputFormat& format) : tools(format.tools), reasoning(format, &tools) {}

  ToolCallParser tools;
  ReasoningSplitter reasoning;
};

OutputParser::OutputParser(const OutputFormat& format) : state_(std::make_unique<State>(format)) {}
OutputParser::~OutputParser() = default;

void OutputParser::Push(std::string_view piece, std::vector<OutputEvent>* events) {
  for (const char byte : piece) state_->reasoning.Push(byte, events);
}

void OutputParser::Finish(std::vector<OutputEvent>* events) {
  state_->reasoning.Finish(events);
  state_->tools.Finish(events);
}

int OutputParser::calls() const { return state_->tools.calls(); }

int64_t OutputParser::steps() const { return state_->reasoning.steps() + state_->tools.steps(); }

}  // namespace shoal::text
