// Tested by: tests/kernels/cuda/all_reduce_test.cc
// Writes count elements to the own area and reads them of every area: ranks - 1 times count elements come over the
// link. Loads of all ranks are begun before the first is added: their way is long.
#include <algorithm>

#include "kernels/cuda/all_reduce.h"
#include "kernels/cuda/system.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

using ops::kAllReduceBlocks;
using ops::kAllReduceMaxRanks;

constexpr int kThreads = 256;
// Looks between two at the abort word, which lies in the host's memory: a look at a flag is some 100 ns, one at that
// word some us.
constexpr int kLooksBetweenAborts = 256;

template <typename T>
constexpr int kUnit = static_cast<int>(sizeof(uint4) / sizeof(T));

template <typename T>
__device__ void AddTo(float (&sum)[kUnit<T>], const uint4& raw) {
  T of[kUnit<T>];
  memcpy(of, &raw, sizeof(raw));
  SHOAL_UNROLL for (int i = 0; i < kUnit<T>; ++i) sum[i] = __fadd_rn(sum[i], ToFloat(of[i]));
}

template <typename T>
__device__ void Set(float (&sum)[kUnit<T>], const uint4& raw) {
  T of[kUnit<T>];
  memcpy(of, &raw, sizeof(raw));
  SHOAL_UNROLL for (int i = 0; i < kUnit<T>; ++i) sum[i] = ToFloat(of[i]);
}

template <typename T>
__device__ uint4 Pack(const float (&sum)[kUnit<T>]) {
  T of[kUnit<T>];
  SHOAL_UNROLL for (int i = 0; i < kUnit<T>; ++i) of[i] = FromFloat<T>(sum[i]);
  uint4 raw;
  memcpy(&raw, of, sizeof(raw));
  return raw;
}

__device__ inline uint32_t* Flag(std::byte* area, int block, int rank) {
  return reinterpret_cast<uint32_t*>(area + block * ops::kAllReduceFlagLine) + rank;
}

// Raises this block's flag with rank `peer` and waits for that of `peer`: `round` has begun on both.
template <typename T>
__device__ void Meet(const AllReduce<T>& op, int peer, uint32_t round) {
  const int block = static_cast<int>(blockIdx.x);
  StoreRelease(Flag(op.areas[peer], block, op.rank), round);
  const uint32_t* theirs = Flag(op.areas[op.rank], block, peer);
  // Rounds come around: later is what is ahead by less than half of all numbers.
  for (int looks = 1; static_cast<int32_t>(LoadAcquire(theirs) - round) < 0; ++looks) {
    if (looks % kLooksBetweenAborts == 0 && LoadRelaxed(op.abort) != 0) break;
    Pause();
  }
}

template <typename T>
__device__ void SumUnit(const AllReduce<T>& op, size_t part, int64_t unit, T* y) {
  uint4 raw[kAllReduceMaxRanks];
  SHOAL_UNROLL for (int r = 0; r < kAllReduceMaxRanks; ++r) {
    if (r < op.ranks) raw[r] = reinterpret_cast<const uint4*>(op.areas[r] + part)[unit];
  }
  float sum[kUnit<T>];
  Set<T>(sum, raw[0]);
  SHOAL_UNROLL for (int r = 1; r < kAllReduceMaxRanks; ++r) {
    if (r < op.ranks) AddTo<T>(sum, raw[r]);
  }
  reinterpret_cast<uint4*>(y)[unit] = Pack<T>(sum);
}

template <typename T>
__device__ void SumOne(const AllReduce<T>& op, size_t part, int64_t i, T* y) {
  float sum = ToFloat(reinterpret_cast<const T*>(op.areas[0] + part)[i]);
  for (int r = 1; r < op.ranks; ++r) {
    sum = __fadd_rn(sum, ToFloat(reinterpret_cast<const T*>(op.areas[r] + part)[i]));
  }
  y[i] = FromFloat<T>(sum);
}

// `stride`: elements of a block, a multiple of a unit.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads) OneShot(const __grid_constant__ AllReduce<T> op, int64_t stride) {
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const uint32_t round = op.rounds[block] + 1;
  const size_t part =
      ops::kAllReduceSlotsAt + (round % 2 * kAllReduceBlocks + static_cast<size_t>(block)) * ops::kAllReducePartBytes;
  const T* x = op.x + block * stride;
  T* y = op.y + block * stride;
  const int64_t count = min(op.count - block * stride, stride);
  const int64_t units = kAligned ? count / kUnit<T> : 0;

  auto* own = reinterpret_cast<T*>(op.areas[op.rank] + part);
  for (int64_t u = thread; u < units; u += kThreads) {
    reinterpret_cast<uint4*>(own)[u] = reinterpret_cast<const uint4*>(x)[u];
  }
  for (int64_t i = units * kUnit<T> + thread; i < count; i += kThreads) own[i] = x[i];
  __syncthreads();
  if (thread < op.ranks && thread != op.rank) Meet(op, thread, round);
  __syncthreads();
  for (int64_t u = thread; u < units; u += kThreads) SumUnit(op, part, u, y);
  for (int64_t i = units * kUnit<T> + thread; i < count; i += kThreads) SumOne(op, part, i, y);
  if (thread == 0) op.rounds[block] = round;
}

bool Aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(uint4) == 0; }

}  // namespace

template <typename T>
absl::Status Enqueue(DeviceStream stream, const AllReduce<T>& op) {
  if (op.count == 0) return absl::OkStatus();
  if (op.ranks < 1 || op.ranks > kAllReduceMaxRanks || op.rank < 0 || op.rank >= op.ranks || op.count < 0 ||
      op.count > static_cast<int64_t>(ops::kAllReduceMaxBytes / sizeof(T))) {
    return absl::InvalidArgumentError("all_reduce: more ranks or elements than an area is for");
  }
  // A unit for every thread, then more blocks, then more units; whole units but at the end.
  const int64_t units = (op.count + kUnit<T> - 1) / kUnit<T>;
  const int64_t wanted = std::min((units + kThreads - 1) / kThreads, static_cast<int64_t>(kAllReduceBlocks));
  const int64_t stride = (units + wanted - 1) / wanted * kUnit<T>;
  const auto blocks = static_cast<unsigned>((op.count + stride - 1) / stride);
  const LaunchShape shape = {dim3{blocks}, dim3{kThreads}, 0};
  const bool aligned = Aligned(op.x) && Aligned(op.y);
  return Launch(stream, "all_reduce", shape, aligned ? OneShot<T, true> : OneShot<T, false>, op, stride);
}

template absl::Status Enqueue(DeviceStream, const AllReduce<bf16>&);
template absl::Status Enqueue(DeviceStream, const AllReduce<float>&);

}  // namespace shoal::cuda
