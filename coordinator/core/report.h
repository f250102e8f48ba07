// What was known when something went wrong, for whoever has to find out why: counts and positions, never what requests
// say. Plain data; text and files are made of it outside.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/core/core.h"

namespace shoal::core {

enum class Detection : uint8_t {
  kAgentLost,  // its connection broke, or it registered again
  kSilent,     // no heartbeats
  kExited,
  kStopped,
  kStuck,     // alive, and its agent saw it stand still
  kBroken,    // an answer that breaks the rules, or an error
  kWrong,     // the canary or a checksum differs
  kDeadline,  // plans unanswered, and nobody gets on
  kStraggler,
};
std::string_view DetectionName(Detection what);  // "agent_lost", ...

// Which it was of the ends that an agent reports.
Detection DetectionOf(std::string_view cause);

// Who is to blame: a rank, or the agent of several; -1 and empty where it is not known.
struct Culprit {
  Detection what = Detection::kAgentLost;
  int32_t rank = -1;
  plan::AgentId agent;
};

struct PlanNote {
  uint64_t step = 0;
  int32_t rows = 0, tokens = 0;
  bool answered = false;  // by the sampling rank
};

struct StallReport {
  Culprit culprit;
  std::string reason;           // as logged
  std::string next;             // what happens now
  ClusterState state;           // before anything was done about it
  std::vector<PlanNote> plans;  // the last ones that were sent, oldest first
};

}  // namespace shoal::core
