#include "tools/cli/version.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "worker/device/cuda_plugin.h"

namespace shoal::cli {

std::string VersionText(const std::string& build_id, const std::string& cuda_plugin) {
  const std::string first = absl::StrCat("shoal ", build_id, "\n");
  const auto plugin = device::OpenCudaPlugin(cuda_plugin, build_id);
  if (!plugin.ok()) return absl::StrCat(first, "no CUDA: ", plugin.status().message(), "\n");
  const auto probe = std::make_unique<ops::CudaProbe>();  // some 20 KiB
  (*plugin)->probe(probe.get());
  return absl::StrCat(first, device::DescribeCuda(*probe), "\n");
}

}  // namespace shoal::cli
