// kernels/ops/sample.h on a device: the reference's token, unless the draw, or a cut, lies so close to a border between
// two tokens that rounding each weight to 2^-41 of the largest moves it across: about 1e-10 of the sum, at most 6e-8
// (2^18 weights all rounded one way). Sums are of integers, so a row's token depends on the row alone, and not on
// threads or their order.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/sample.h"

namespace shoal::cuda {

struct Sample {
  const float* logits;           // [rows, vocab], 16-byte aligned
  int64_t stride;                // floats from row to row, a multiple of 4
  const ops::SampleRow* params;  // [rows], on the device
  int32_t* tokens;               // [rows], out; -1: the row has a NaN or +Inf, or nothing finite
  int32_t* mailbox;              // null, or for gather_ids: mailbox[places[r]] = the token, 0 where that is -1
  const int32_t* places;         // [rows], on the device; negative: the row is padding, is not read and gives -1.
                                 // Null: none is; then there is no mailbox
  int rows;
  int vocab;  // at most 262144
};
absl::Status Enqueue(DeviceStream stream, const Sample& op);

}  // namespace shoal::cuda
