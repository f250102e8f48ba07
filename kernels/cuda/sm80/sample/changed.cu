// Tested by: tests/kernels/cuda/sample_changes_test.cc
// Rows that mask, biases or penalties change: as any other (choose.h), but each logit is changed anew at each reading,
// and nothing is written. A kernel of its own, of fewer threads: it needs more registers than a block of 1024 leaves to
// each.
#include "kernels/cuda/sm80/sample/choose.h"

namespace shoal::cuda::sample {
namespace {

constexpr int kMaxChangedThreads = 512;

__global__ void __launch_bounds__(kMaxChangedThreads, 1) ChangedRow(const ops::SampleArgs op) {
  const int64_t r = blockIdx.x;
  const ops::SampleRow params = op.params[r];
  if (!IsChanged(op, params)) return;
  const bool penalised = op.counts != nullptr && IsPenalised(params), masked = op.masks != nullptr && params.mask >= 0;
  const bool biased = op.biases != nullptr && params.bias_count > 0;
  const Changed logits = {op.logits + r * op.stride,
                          op.vocab,
                          penalised ? op.counts + params.place * ops::CountsStride(op.vocab) : nullptr,
                          masked ? op.masks + params.mask * ops::MaskWords(op.vocab) : nullptr,
                          biased ? Biases{op.biases + params.bias_first, params.bias_count} : Biases{},
                          {params.repetition, params.presence, params.frequency}};
  SampleRowBy(op, r, params, logits);
}

}  // namespace

absl::Status EnqueueChanged(DeviceStream stream, const ops::SampleArgs& op) {
  return Launch(stream, "sample (changed rows)", ShapeOf<kMaxChangedThreads>(op), ChangedRow, op);
}

}  // namespace shoal::cuda::sample
