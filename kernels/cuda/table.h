// The CUDA backend's ops as the decoder calls them (kernels/ops/op_table.h), for streams that are QueueStreams.
#pragma once

#include "kernels/ops/op_table.h"

namespace shoal::cuda {

const ops::OpTable& Table();

}  // namespace shoal::cuda
