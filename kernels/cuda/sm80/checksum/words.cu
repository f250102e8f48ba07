// Tested by: tests/kernels/cuda/checksum_test.cc
// A block for each part. The data are some megabytes at most, and have just been written: they lie in the second-level
// cache.
#include "kernels/cuda/checksum.h"

namespace shoal::cuda {
namespace {

struct Sums {
  uint64_t of[kChecksumThreads];
};

__global__ void __launch_bounds__(kChecksumThreads) ChecksumWords(const ops::ChecksumArgs op) {
  const int thread = static_cast<int>(threadIdx.x);
  const auto* const words = static_cast<const uint32_t*>(op.data);
  const int64_t count = op.bytes / 4;
  uint64_t sum = 0;
  for (int64_t i = blockIdx.x * kChecksumThreads + thread; i < count; i += gridDim.x * kChecksumThreads) {
    sum += ChecksumMix(words[i], i);
  }
  Sums& sums = Shared<Sums>();
  sums.of[thread] = sum;
  for (int half = kChecksumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums.of[thread] += sums.of[thread + half];
  }
  if (thread == 0) op.sums[blockIdx.x] = sums.of[0];
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::ChecksumArgs& op) {
  return Launch(stream, "checksum", {dim3{ops::kChecksumParts}, dim3{kChecksumThreads}, sizeof(Sums)}, ChecksumWords,
                op);
}

}  // namespace shoal::cuda
