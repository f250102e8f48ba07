// Tested by: tests/device/open_test.cc, tests/maker/maker_test.cc
#include "worker/device/open.h"

#include "common/base/build_id.h"
#include "common/base/status_macros.h"
#include "kernels/ops/backends.h"
#include "worker/device/cuda_plugin.h"

namespace shoal::device {

absl::StatusOr<const ops::CudaPlugin*> CudaPlugin() { return OpenCudaPlugin(CudaPluginPath(), BuildId()); }

absl::StatusOr<const ops::OpTable*> FindTable(const std::string& name, ops::Numerics numerics) {
  if (name != kCuda) return ops::FindOpTable(name);
  SHOAL_ASSIGN_OR_RETURN(const ops::CudaPlugin* plugin, CudaPlugin());
  return plugin->table(numerics);
}

absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenAccelerator(int index, ops::Numerics numerics) {
  SHOAL_ASSIGN_OR_RETURN(const ops::CudaPlugin* plugin, CudaPlugin());
  std::unique_ptr<ops::Accelerator> accelerator;
  SHOAL_RETURN_IF_ERROR(plugin->open(index, numerics, &accelerator));
  return accelerator;
}

}  // namespace shoal::device
