#include "common/plan/control.h"

namespace shoal::plan {

std::string_view RankStateName(RankState s) {
  switch (s) {
    case RankState::kStarting:
      return "starting";
    case RankState::kLoading:
      return "loading";
    case RankState::kConnecting:
      return "connecting";
    case RankState::kReady:
      return "ready";
    case RankState::kRunning:
      return "running";
    case RankState::kDead:
      return "dead";
  }
  return "unknown";
}

}  // namespace shoal::plan
