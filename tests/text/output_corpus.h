// Answers in the shapes that models write, and what they say.
#pragma once

#include <string>
#include <vector>

#include "common/text/output_parser.h"

namespace shoal::text {

struct Answer {
  const char* what;
  OutputFormat format;
  std::string text;
  std::vector<OutputEvent> says;  // one event per run
};

const std::vector<Answer>& AnswerCorpus();

// All in one piece, or in these; runs that were cut are joined.
std::vector<OutputEvent> Parse(const OutputFormat& format, const std::vector<std::string>& pieces);
std::vector<OutputEvent> Joined(const std::vector<OutputEvent>& events);
std::vector<std::string> Bytes(const std::string& text);

bool operator==(const OutputEvent& a, const OutputEvent& b);
void PrintTo(const OutputEvent& event, std::ostream* out);
void PrintTo(const Answer& answer, std::ostream* out);

}  // namespace shoal::text
