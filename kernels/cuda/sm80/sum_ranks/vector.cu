// Tested by: tests/kernels/cuda/sum_ranks_test.cc
// Moves 2 (ranks + 1) bytes per element. A thread has eight neighbours.
#include "kernels/cuda/sum_ranks.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

__device__ void SumOne(const SumRanks& op, int64_t i) {
  float sum = ToFloat(op.parts[i]);
  for (int r = 1; r < op.ranks; ++r) sum = __fadd_rn(sum, ToFloat(op.parts[r * op.stride + i]));
  op.y[i] = FromFloat<bf16>(sum);
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) SumVector(const SumRanks op) {
  const int64_t begin = 8 * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
  if (begin >= op.count) return;
  if (!kAligned || begin + 8 > op.count) {
    const int64_t end = min(begin + 8, op.count);
    for (int64_t i = begin; i < end; ++i) SumOne(op, i);
    return;
  }
  Vec8 sum = Load8(op.parts + begin);
  for (int r = 1; r < op.ranks; ++r) {
    const Vec8 x = Load8(op.parts + r * op.stride + begin);
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) sum.of[i] = __fadd_rn(sum.of[i], x.of[i]);
  }
  Store8(op.y + begin, sum);
}

bool Aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

}  // namespace

absl::Status Enqueue(DeviceStream stream, const SumRanks& op) {
  if (op.count == 0) return absl::OkStatus();
  if (op.ranks < 1 || op.count < 0 || op.stride < op.count) {
    return absl::InvalidArgumentError("sum_ranks: no ranks, or parts that overlap");
  }
  const int64_t blocks = (op.count + 8 * kThreads - 1) / (8 * kThreads);
  if (blocks > INT32_MAX) return absl::InvalidArgumentError("sum_ranks: more elements than a grid has");
  const LaunchShape shape = {dim3{static_cast<unsigned>(blocks)}, dim3{kThreads}, 0};
  const bool aligned = Aligned(op.parts) && Aligned(op.y) && op.stride % 8 == 0;
  return Launch(stream, "sum_ranks", shape, aligned ? SumVector<true> : SumVector<false>, op);
}

}  // namespace shoal::cuda
