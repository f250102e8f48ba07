// matmul of --numerics fast: what of a call the library multiplies, and what is left to our own kernels.
#pragma once

#include "kernels/cuda/queue_stream.h"
#include "kernels/ops/matmul.h"

namespace shoal::cuda {

// Parts that the stream's library takes and has go to it, one after the other, all others to `own` in one call. Parts
// in e4m3 share one quantised x. Enqueues as Enqueue does; the quantised x is the stream's own to the end.
absl::Status FastMatmul(QueueStream& stream, const ops::MatmulArgs& a, ops::MatmulFn own);

}  // namespace shoal::cuda
