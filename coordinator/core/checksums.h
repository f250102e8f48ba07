// Which plans ask the ranks for a checksum of their hidden states, and what the answers say. Tensor ranks of a stage
// hold the same hidden states to the bit; ranks that differ compute something else, and nobody would notice. One per
// epoch. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace shoal::core {

// Indices of the values that are not what most of them are; all when there is no majority; none when all are equal.
std::vector<int32_t> OddOnes(std::span<const uint64_t> values);

class ChecksumWatch {
 public:
  // Every `interval`th plan asks, from the first one on; 0, or one tensor rank: none.
  ChecksumWatch(int32_t tp, int32_t stages, int32_t interval) : tp_(tp), stages_(stages), interval_(interval) {}

  // Whether plan `step` asks; called once for each plan, in order. `must`: whatever its number.
  bool Ask(uint64_t step, bool must);

  // Some rank has not answered a plan that asked.
  bool waits() const { return !asked_.empty(); }

  struct Mismatch {
    std::vector<int32_t> ranks;  // that are wrong, as far as can be told
    std::string text;
  };
  // The answer of `rank` to `step`; 0: it has no checksum. Each rank's answers come in order.
  std::optional<Mismatch> Note(int32_t rank, uint64_t step, uint64_t checksum);
  // Stages of plans whose ranks agreed.
  uint64_t agreed() const { return agreed_; }
  // Plans that asked by their number, and all of whose ranks agreed.
  uint64_t plans_agreed() const { return plans_agreed_; }

 private:
  struct Asked {
    uint64_t step;
    std::vector<uint64_t> sums;     // [ranks]
    std::vector<int32_t> answered;  // [stages] ranks
    int32_t stages_open;
    bool must;
  };
  std::optional<Mismatch> Compare(const Asked& asked, int32_t stage) const;

  const int32_t tp_, stages_, interval_;
  std::deque<Asked> asked_;  // by step; some rank has not answered
  uint64_t agreed_ = 0, plans_agreed_ = 0;
};

}  // namespace shoal::core
