// The CUDA backend's ops as the decoder calls them (kernels/ops/op_table.h), for streams that are QueueStreams.
#pragma once

#include "kernels/ops/numerics.h"
#include "kernels/ops/op_table.h"

namespace shoal::cuda {

// That of kFast asks the stream's library (library_gemm.h) for products, and is the other one else.
const ops::OpTable& Table(ops::Numerics numerics = ops::Numerics::kInvariant);

}  // namespace shoal::cuda
