// The memory that outlives ranks: weights and KV cache, by rank. Weights belong to a key (what was loaded and how it
// was cut); asking with another key finds nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "worker/device/memory.h"

namespace shoal::agent {

// Changed by one thread; Held() may be asked from any. Pointers live until the entry is dropped.
class Shelf {
 public:
  // Null: not held.
  const device::SharedMemory* Weights(const std::string& key, int32_t rank,
                                      int device = device::SharedMemory::kHost) const SHOAL_EXCLUDES(mutex_);
  void PutWeights(const std::string& key, int32_t rank, device::SharedMemory memory) SHOAL_EXCLUDES(mutex_);
  // Drops the weights of other keys and ranks, and the caches of other ranks, to make room before loading. A rank on
  // another device is another rank.
  struct Place {
    int32_t rank;
    int device = device::SharedMemory::kHost;
  };
  void KeepOnly(const std::string& key, const std::vector<Place>& places) SHOAL_EXCLUDES(mutex_);

  // The KV region of a rank: the one it has when place and size are the same, else a new one that `make` makes. Its id
  // is random; the same id again says that only the ranks of this coordinator (an incarnation) have written to it
  // since.
  struct KvRegion {
    device::SharedMemory memory;
    size_t bytes;  // asked for; a device may have rounded it up
    uint64_t coordinator;
    uint64_t id;
  };
  using MakeMemory = std::function<absl::StatusOr<device::SharedMemory>(size_t bytes)>;
  absl::StatusOr<const KvRegion*> Kv(Place place, size_t bytes, uint64_t coordinator, const MakeMemory& make)
      SHOAL_EXCLUDES(mutex_);
  // Of the host, which every rank of the CPU has.
  absl::StatusOr<const KvRegion*> Kv(int32_t rank, size_t bytes, uint64_t coordinator) SHOAL_EXCLUDES(mutex_);

  // All that is held on a device.
  int64_t BytesOn(int device) const SHOAL_EXCLUDES(mutex_);

  // The key and the ranks whose weights are held.
  struct HeldWeights {
    std::string key;
    std::vector<int32_t> ranks;
  };
  HeldWeights Held() const SHOAL_EXCLUDES(mutex_);

 private:
  // The region that a rank has, for this coordinator from now on; null when it has none like that.
  absl::StatusOr<const KvRegion*> Reuse(Place place, size_t bytes, uint64_t coordinator) SHOAL_EXCLUDES(mutex_);

  mutable Mutex mutex_;
  std::string key_ SHOAL_GUARDED_BY(mutex_);
  std::map<int32_t, device::SharedMemory> weights_ SHOAL_GUARDED_BY(mutex_);  // of key_
  std::map<int32_t, KvRegion> kv_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::agent
