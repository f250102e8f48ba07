// The accelerator of the suite for tests that take it from accelerator_factory.h.
// Tested by: tests/kernels/cuda/accelerator_contract.cc
#include <cstdio>

#include "tests/gpu/gpu_plugin.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator(bool, ops::Numerics numerics) {
  auto opened = gpu::OpenAccelerator(numerics);
  if (opened.ok()) return std::move(*opened);
  std::fprintf(stderr, "%s\n", opened.status().ToString().c_str());
  return nullptr;
}

const ops::OpTable* TestTable(ops::Numerics numerics) { return gpu::PluginTable(numerics); }

}  // namespace shoal::cuda
