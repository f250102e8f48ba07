// Tested by: tests/plan/wire_test.cc
#include "common/plan/stale.h"

namespace shoal::plan {

std::string_view StalePlaceName(StalePlace place) {
  static constexpr std::array<std::string_view, kStalePlaces> kNames = {
      "join", "preload", "load",      "connect", "abort", "drain", "open",
      "plan", "record",  "heartbeat", "reply",   "frame", "answer"};
  return kNames[static_cast<size_t>(place)];
}

}  // namespace shoal::plan
