// Tested by: tests/kernels/cuda/sample_test.cc
// One block for each row (choose.h); those that mask, biases or penalties change are left to changed.cu, which is
// launched only where there may be some.
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sm80/sample/choose.h"

namespace shoal::cuda {
namespace {

__global__ void __launch_bounds__(sample::kMaxThreads) PlainRow(const ops::SampleArgs op) {
  const int64_t r = blockIdx.x;
  const ops::SampleRow params = op.params[r];
  if (sample::IsChanged(op, params)) return;
  sample::SampleRowBy(op, r, params, sample::Plain{op.logits + r * op.stride, op.vocab});
}

bool Changes(const ops::SampleArgs& op) { return op.counts != nullptr || op.masks != nullptr || op.biases != nullptr; }

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::SampleArgs& op) {
  if (op.rows == 0) return absl::OkStatus();
  if (op.vocab < 1 || op.vocab > kMaxSampledVocab) {
    return absl::InvalidArgumentError("sample: the vocabulary is not within 1 to 524287");
  }
  const absl::Status plain = Launch(stream, "sample", sample::ShapeOf<sample::kMaxThreads>(op), PlainRow, op);
  return plain.ok() && Changes(op) ? sample::EnqueueChanged(stream, op) : plain;
}

}  // namespace shoal::cuda
