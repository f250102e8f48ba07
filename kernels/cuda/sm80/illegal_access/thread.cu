// Tested by: tests/kernels/cuda/accelerator_test.cc
// One thread writes to address 0, which no allocation has. On the host that would end the process, where a device has
// an error: there the queue is told to have that.
#include "kernels/cuda/illegal_access.h"
#include "kernels/cuda/lang.h"
#include "kernels/cuda/queue_stream.h"

namespace shoal::cuda {

#if defined(__CUDACC__)
namespace {

__global__ void IllegalAccess(int* nowhere) { *nowhere = 1; }

}  // namespace

absl::Status EnqueueIllegalAccess(ops::Stream& stream) {
  return Launch(static_cast<QueueStream&>(stream).queue(), "illegal_access", {dim3{1}, dim3{1}, 0}, IllegalAccess,
                static_cast<int*>(nullptr));
}
#else
absl::Status EnqueueIllegalAccess(ops::Stream& stream) {
  return static_cast<QueueStream&>(stream).queue()->Enqueue(
      "illegal_access", [] { return absl::InternalError("an illegal memory access was encountered"); });
}
#endif

}  // namespace shoal::cuda
