// Ranks that hold up their stage: for 10 steps in a row one takes more than three times as long as the median of its
// tensor peers for what all of them do (StepTimes::Own). Pure; knows steps and times only.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/clock.h"

namespace shoal::core {

class Stragglers {
 public:
  static constexpr int32_t kSteps = 10;       // in a row, to become one
  static constexpr int32_t kRecovered = 100;  // in a row, to be none any more: who is slow now and then is named once
  static constexpr int32_t kTimes = 3;
  // Below so much, a scheduler's whims make such differences.
  static constexpr DurationNs kLeast = kMillisecond;

  Stragglers(int32_t tp, int32_t pp);

  // A new group, cut so: nothing is known.
  void Reset(int32_t tp, int32_t pp);

  struct Change {
    int32_t rank;
    bool straggles;  // or no longer
    DurationNs own, peers;
  };
  // One rank's own time in one step. What this settles: usually nothing. Steps of a rank come in order; one that has
  // come before is ignored. Precondition: 0 <= rank < tp * pp.
  std::vector<Change> Note(int32_t rank, uint64_t step, DurationNs own);

  // Of ranks that the group does not have: nothing.
  bool straggles(int32_t rank) const { return Has(rank) && ranks_[rank].straggles; }
  // Of its own times, the latest counting most.
  DurationNs mean(int32_t rank) const { return Has(rank) ? ranks_[rank].mean : 0; }

 private:
  // Tensor ranks are never so many steps apart: each of them waits for the others in every step.
  static constexpr uint64_t kOpenSteps = 16;

  struct Rank {
    uint64_t last = 0;
    DurationNs mean = 0;
    int32_t in_a_row = 0;  // steps that speak against its present state
    bool straggles = false;
  };
  struct Step {
    uint64_t step = 0;
    int32_t answers = 0;
    std::vector<DurationNs> own;  // [tp]
  };

  bool Has(int32_t rank) const { return rank >= 0 && rank < static_cast<int32_t>(ranks_.size()); }
  std::vector<Change> Compare(int32_t stage, const Step& step);

  int32_t tp_ = 1;
  std::vector<Rank> ranks_;        // [tp * pp]
  std::vector<Step> open_;         // [pp * kOpenSteps], by step
  std::vector<DurationNs> peers_;  // kept for its memory
};

}  // namespace shoal::core
