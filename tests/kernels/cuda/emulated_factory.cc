#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/ops/backends.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator() {
  return MakeEmulatedAccelerator({.table = ops::FindOpTable("ref").value()});
}

}  // namespace shoal::cuda
