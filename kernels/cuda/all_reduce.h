// kernels/ops/all_reduce.h on a device: T is bf16 or float.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/all_reduce.h"

namespace shoal::cuda {

// 16 bytes at a time where x and y allow it, else an element at a time: the same bits. Sums are in f32.
template <typename T>
struct AllReduce {
  const T* x;
  T* y;  // [count]; may be x
  int64_t count;
  int rank, ranks;
  std::byte* areas[ops::kAllReduceMaxRanks];
  uint32_t* rounds;
  const uint32_t* abort;
};
template <typename T>
absl::Status Enqueue(DeviceStream stream, const AllReduce<T>& op);

}  // namespace shoal::cuda
