#include "worker/agent/shelf.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::agent {

const device::SharedMemory* Shelf::Weights(const std::string& key, int32_t rank) const {
  MutexLock lock(mutex_);
  const auto it = weights_.find(rank);
  return key == key_ && it != weights_.end() ? &it->second : nullptr;
}

void Shelf::PutWeights(const std::string& key, int32_t rank, device::SharedMemory memory) {
  MutexLock lock(mutex_);
  if (key != key_) weights_.clear();
  key_ = key;
  weights_.insert_or_assign(rank, std::move(memory));
}

void Shelf::KeepOnly(const std::string& key, const std::vector<int32_t>& ranks) {
  MutexLock lock(mutex_);
  const auto unwanted = [&](const auto& entry) {
    return std::find(ranks.begin(), ranks.end(), entry.first) == ranks.end();
  };
  if (key != key_) weights_.clear();
  std::erase_if(weights_, unwanted);
  std::erase_if(kv_, unwanted);
}

absl::StatusOr<const Shelf::KvRegion*> Shelf::Kv(int32_t rank, size_t bytes, uint64_t coordinator) {
  MutexLock lock(mutex_);
  auto it = kv_.find(rank);
  if (it != kv_.end() && it->second.memory.size() == bytes && it->second.coordinator == coordinator) return &it->second;
  uint64_t id = 0;
  if (::getrandom(&id, sizeof id, 0) != static_cast<ssize_t>(sizeof id)) {
    return absl::ErrnoToStatus(errno, "no random numbers from the system");
  }
  if (it != kv_.end() && it->second.memory.size() == bytes) {
    it->second.coordinator = coordinator;
    it->second.id = id;
    return &it->second;
  }
  kv_.erase(rank);
  SHOAL_ASSIGN_OR_RETURN(device::SharedMemory memory,
                         device::SharedMemory::Create(absl::StrCat("shoal-kv-r", rank), bytes));
  return &kv_.insert_or_assign(rank, KvRegion{std::move(memory), coordinator, id}).first->second;
}

Shelf::HeldWeights Shelf::Held() const {
  MutexLock lock(mutex_);
  HeldWeights held;
  for (const auto& [rank, memory] : weights_) held.ranks.push_back(rank);
  if (!held.ranks.empty()) held.key = key_;
  return held;
}

}  // namespace shoal::agent
