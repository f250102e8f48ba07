// Words that devices and the host exchange while their kernels run, in memory that all of them reach.
#pragma once

#include "kernels/cuda/lang.h"

#if defined(__CUDACC__)
namespace shoal::cuda {

// What this thread, and threads of its block before a barrier, have written is seen by whoever acquires the word after
// this; at system scope (PTX ISA, memory consistency model).
__device__ inline void StoreRelease(uint32_t* at, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
__device__ inline uint32_t LoadAcquire(const uint32_t* at) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
// A word alone, in no order with others.
__device__ inline uint32_t LoadRelaxed(const uint32_t* at) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
// Between two looks at a word that another device will change.
__device__ inline void Pause() {}

}  // namespace shoal::cuda
#else
#include "kernels/cuda/emulated/system.h"
#endif
