// The accelerator of a CUDA device, where there is one; all are skipped where there is none.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/accelerator_contract.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {
namespace {

INSTANTIATE_TEST_SUITE_P(Cuda, AcceleratorContract,
                         ::testing::Values(AcceleratorKind{"device", [] { return MakeTestAccelerator(); },
                                                           ACCELERATOR_PEER}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace shoal::cuda
