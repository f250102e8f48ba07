#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator(bool, ops::Numerics numerics) {
  auto opened = OpenDevice(0, numerics);
  return opened.ok() ? std::move(*opened) : nullptr;
}

}  // namespace shoal::cuda
