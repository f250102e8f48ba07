// Tested by: tests/core/stall_test.cc
#include "coordinator/core/report.h"

namespace shoal::core {

std::string_view DetectionName(Detection what) {
  switch (what) {
    case Detection::kAgentLost:
      return "agent_lost";
    case Detection::kSilent:
      return "silent";
    case Detection::kExited:
      return "exited";
    case Detection::kStopped:
      return "stopped";
    case Detection::kStuck:
      return "stuck";
    case Detection::kBroken:
      return "broken";
    case Detection::kWrong:
      return "wrong";
    case Detection::kDeadline:
      return "deadline";
    case Detection::kStraggler:
      return "straggler";
  }
  return "unknown";
}

Detection DetectionOf(std::string_view cause) {
  if (cause.starts_with("stopped by")) return Detection::kStopped;
  if (cause.starts_with("stuck in")) return Detection::kStuck;
  return Detection::kExited;
}

}  // namespace shoal::core
