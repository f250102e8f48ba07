#include "coordinator/core/kv_blocks.h"

#include "common/base/check.h"

namespace shoal::core {

BlockPool::BlockPool(int32_t blocks) : holders_(blocks, 0) {
  free_.reserve(blocks);
  for (int32_t b = blocks - 1; b >= 0; --b) free_.push_back(b);
}

void BlockPool::Take(const std::vector<int32_t>& blocks, int32_t shared) {
  for (int32_t i = 0; i < static_cast<int32_t>(blocks.size()); ++i) {
    const int32_t block = blocks[i];
    SHOAL_CHECK(block >= 0 && block < size());
    SHOAL_CHECK(holders_[block] == 0 || i < shared);
    ++holders_[block];
  }
  std::erase_if(free_, [this](int32_t block) { return holders_[block] > 0; });
}

bool BlockPool::Allocate(int32_t count, std::vector<int32_t>* out) {
  SHOAL_CHECK(count >= 0);
  if (count > free()) return false;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    holders_[block] = 1;
    out->push_back(block);
  }
  return true;
}

void BlockPool::Share(int32_t block) {
  SHOAL_CHECK(block >= 0 && block < size() && holders_[block] > 0);
  ++holders_[block];
}

void BlockPool::Release(int32_t block) {
  SHOAL_CHECK(block >= 0 && block < size() && holders_[block] > 0);
  if (--holders_[block] == 0) free_.push_back(block);
}

void BlockPool::Release(const std::vector<int32_t>& blocks) {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) Release(*it);
}

void BlockPool::CheckInvariants() const {
  std::vector<bool> seen(holders_.size(), false);
  for (int32_t block : free_) {
    SHOAL_CHECK(block >= 0 && block < size());
    SHOAL_CHECK(!seen[block]);
    SHOAL_CHECK(holders_[block] == 0);
    seen[block] = true;
  }
  for (int32_t block = 0; block < size(); ++block) SHOAL_CHECK(seen[block] == (holders_[block] == 0));
}

}  // namespace shoal::core
