#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator(bool lazy, ops::Numerics numerics) {
  return MakeEmulatedAccelerator(
      {.table = &Table(numerics), .pace = lazy ? emulated::Pace::kLazy : emulated::Pace::kEager});
}
const ops::OpTable* TestTable(ops::Numerics numerics) { return &Table(numerics); }

}  // namespace shoal::cuda
