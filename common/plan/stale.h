// Where what belongs to an epoch that is over, or to a stranger, is refused, and how often. Such messages are no
// faults: they were under way when the epoch ended. That they are many, or never end, is one.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shoal::plan {

enum class StalePlace : uint8_t {
  // At agents: commands, the opening of a step stream, and plans on one.
  kJoin,
  kPreload,
  kLoad,
  kConnect,
  kAbort,
  kDrain,
  kOpen,
  kPlan,
  kRecord,  // at ranks: plans in the ring
  // At the coordinator.
  kHeartbeat,  // of an agent, or a life of it, that is not registered
  kReply,      // to a command; on its way to the core or in it
  kFrame,      // on a step stream; in the core: the exit of a rank that is no more
  kAnswer,     // a step's, in the core
};
inline constexpr size_t kStalePlaces = 13;
// "join", ...: the label of the place.
std::string_view StalePlaceName(StalePlace place);

// More than any agent refuses: sums over agents stay far from overflow.
inline constexpr uint64_t kMaxStale = uint64_t{1} << 48;

// By place.
using StaleCounts = std::array<uint64_t, kStalePlaces>;

// Counts that only grow. Thread-safe.
class StaleCounters {
 public:
  void Count(StalePlace place, uint64_t times = 1) {
    counts_[static_cast<size_t>(place)].fetch_add(times, std::memory_order_relaxed);
  }
  StaleCounts Read() const {
    StaleCounts counts;
    for (size_t i = 0; i < kStalePlaces; ++i) counts[i] = counts_[i].load(std::memory_order_relaxed);
    return counts;
  }

 private:
  std::array<std::atomic<uint64_t>, kStalePlaces> counts_{};
};

}  // namespace shoal::plan
