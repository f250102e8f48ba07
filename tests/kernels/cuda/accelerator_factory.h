// The accelerator that a test program or its peer (accelerator_peer.cc) is linked with.
#pragma once

#include <memory>

#include "kernels/ops/accelerator.h"
#include "kernels/ops/numerics.h"

namespace shoal::cuda {

// Null: there is none here. `lazy`: work runs as late as it can, of a kind that has the choice.
std::unique_ptr<ops::Accelerator> MakeTestAccelerator(bool lazy = true,
                                                      ops::Numerics numerics = ops::Numerics::kInvariant);
// The ops of all of them. Null: there is none here.
const ops::OpTable* TestTable(ops::Numerics numerics = ops::Numerics::kInvariant);

}  // namespace shoal::cuda
