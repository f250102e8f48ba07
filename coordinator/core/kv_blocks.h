// Which KV blocks are free and how many tables hold each. The block tables themselves belong to the sequences. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal::core {

class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);

  int32_t size() const { return static_cast<int32_t>(holders_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t holders(int32_t block) const { return holders_[block]; }

  // One more holder for blocks that are named one by one. Aborts when one of them is not free, but for the first
  // `shared` of them.
  void Take(const std::vector<int32_t>& blocks, int32_t shared = 0);
  // Appends `count` blocks with one holder each. False, and nothing has changed, when fewer are free.
  bool Allocate(int32_t count, std::vector<int32_t>* out);
  // One more holder of a block that has one already.
  void Share(int32_t block);
  // One holder less; the block is free when none is left, and handed out again at once: plans run in order on every
  // rank, so plans that were sent before still find their KV.
  void Release(int32_t block);
  void Release(const std::vector<int32_t>& blocks);

  // Every block is either free, once, or held.
  void CheckInvariants() const;

 private:
  std::vector<int32_t> holders_;  // [blocks]
  std::vector<int32_t> free_;     // a stack: what was used last is warm
};

}  // namespace shoal::core
