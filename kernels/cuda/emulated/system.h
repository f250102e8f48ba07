// system.h on the host.
#pragma once

#include <atomic>

namespace shoal::cuda {

inline void StoreRelease(uint32_t* at, uint32_t value) {
  std::atomic_ref<uint32_t>(*at).store(value, std::memory_order_release);
}
inline uint32_t LoadAcquire(const uint32_t* at) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(at)).load(std::memory_order_acquire);
}
inline uint32_t LoadRelaxed(const uint32_t* at) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(at)).load(std::memory_order_relaxed);
}
inline void Pause() { emulated::Yield(); }

}  // namespace shoal::cuda
