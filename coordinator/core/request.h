// A request as the core sees it: tokens in, tokens out. Text, stop strings and HTTP are outside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/plan/step_plan.h"

namespace shoal::core {

using RequestId = uint64_t;  // made by the server; what clients send as ids are labels only

struct GenerateRequest {
  RequestId id = 0;
  std::vector<int32_t> prompt;       // at least one token
  plan::SamplingParams sampling;     // `choice` is set by the core
  int32_t n = 1;                     // choices: answers to the one prompt, each with random numbers of its own
  int32_t max_tokens = 0;            // of each choice, at least 1; prompt + max_tokens <= max_model_len
  std::vector<int32_t> stop_tokens;  // any of them ends a choice and is not part of it
  TimeNs arrived = 0;
};

enum class FinishReason : uint8_t {
  kStop,       // a stop token, or the text side found a stop string
  kLength,     // max_tokens
  kCancelled,  // the client went away
  kError,      // `error` says why
};

// What a request cost, known at its end.
struct RequestStats {
  int32_t prompt_tokens = 0, output_tokens = 0;  // output: of all choices
  int32_t preemptions = 0;
  int32_t reforms =
      0;  // changes of the group's layout or numerics since it was accepted: from there the text may differ
  TimeNs arrived = 0, first_scheduled = 0, first_token = 0, finished = 0;
};

}  // namespace shoal::core
