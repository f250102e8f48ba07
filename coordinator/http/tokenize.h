// Answers of /tokenize and /detokenize, in vLLM's shape. Thread-safe; runs on the text pool.
#pragma once

#include <string_view>

#include "coordinator/http/engine.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace shoal::http {

Response TokenizeAnswer(std::string_view body, const Limits& limits, const ServedModel& model);
Response DetokenizeAnswer(std::string_view body, const Limits& limits, const ServedModel& model);

}  // namespace shoal::http
