#include "worker/agent/shelf.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::agent {

namespace {

absl::StatusOr<uint64_t> RandomId() {
  uint64_t id = 0;
  if (::getrandom(&id, sizeof id, 0) != static_cast<ssize_t>(sizeof id)) {
    return absl::ErrnoToStatus(errno, "no random numbers from the system");
  }
  return id;
}

}  // namespace

const device::SharedMemory* Shelf::Weights(const std::string& key, int32_t rank, int device) const {
  MutexLock lock(mutex_);
  const auto it = weights_.find(rank);
  return key == key_ && it != weights_.end() && it->second.device() == device ? &it->second : nullptr;
}

void Shelf::PutWeights(const std::string& key, int32_t rank, device::SharedMemory memory) {
  MutexLock lock(mutex_);
  if (key != key_) weights_.clear();
  key_ = key;
  weights_.insert_or_assign(rank, std::move(memory));
}

void Shelf::KeepOnly(const std::string& key, const std::vector<Place>& places) {
  MutexLock lock(mutex_);
  const auto unwanted = [&](int32_t rank, const device::SharedMemory& memory) {
    return std::none_of(places.begin(), places.end(),
                        [&](const Place& p) { return p.rank == rank && p.device == memory.device(); });
  };
  if (key != key_) weights_.clear();
  std::erase_if(weights_, [&](const auto& entry) { return unwanted(entry.first, entry.second); });
  std::erase_if(kv_, [&](const auto& entry) { return unwanted(entry.first, entry.second.memory); });
}

absl::StatusOr<const Shelf::KvRegion*> Shelf::Reuse(Place place, size_t bytes, uint64_t coordinator) {
  MutexLock lock(mutex_);
  const auto it = kv_.find(place.rank);
  if (it == kv_.end()) return nullptr;
  KvRegion& region = it->second;
  if (region.bytes != bytes || region.memory.device() != place.device) {
    kv_.erase(it);  // first: there may not be room for both
    return nullptr;
  }
  if (region.coordinator != coordinator) {
    SHOAL_ASSIGN_OR_RETURN(region.id, RandomId());
    region.coordinator = coordinator;
  }
  return &region;
}

absl::StatusOr<const Shelf::KvRegion*> Shelf::Kv(Place place, size_t bytes, uint64_t coordinator,
                                                 const MakeMemory& make) {
  SHOAL_ASSIGN_OR_RETURN(const KvRegion* held, Reuse(place, bytes, coordinator));
  if (held != nullptr) return held;
  SHOAL_ASSIGN_OR_RETURN(const uint64_t id, RandomId());
  SHOAL_ASSIGN_OR_RETURN(device::SharedMemory memory, make(bytes));
  MutexLock lock(mutex_);
  return &kv_.insert_or_assign(place.rank, KvRegion{std::move(memory), bytes, coordinator, id}).first->second;
}

absl::StatusOr<const Shelf::KvRegion*> Shelf::Kv(int32_t rank, size_t bytes, uint64_t coordinator) {
  return Kv({rank}, bytes, coordinator,
            [rank](size_t size) { return device::SharedMemory::Create(absl::StrCat("shoal-kv-r", rank), size); });
}

int64_t Shelf::BytesOn(int device) const {
  MutexLock lock(mutex_);
  size_t bytes = 0;
  for (const auto& [rank, memory] : weights_) bytes += memory.device() == device ? memory.size() : 0;
  for (const auto& [rank, kv] : kv_) bytes += kv.memory.device() == device ? kv.memory.size() : 0;
  return static_cast<int64_t>(bytes);
}

Shelf::HeldWeights Shelf::Held() const {
  MutexLock lock(mutex_);
  HeldWeights held;
  for (const auto& [rank, memory] : weights_) held.ranks.push_back(rank);
  if (!held.ranks.empty()) held.key = key_;
  return held;
}

}  // namespace shoal::agent
