#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator() { return MakeEmulatedAccelerator({.table = &Table()}); }

}  // namespace shoal::cuda
