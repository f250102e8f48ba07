// Tested by: tests/gpu/kernels_gpu_test.cc
#include "tests/gpu/gpu_plugin.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/device/cuda_plugin.h"

namespace shoal::gpu {
namespace {

// The second word of what the program says to `version`.
absl::StatusOr<std::string> ProgramBuild() {
  const char* program = std::getenv("SHOAL_BINARY");
  if (program == nullptr) return absl::InvalidArgumentError("SHOAL_BINARY, the program of the plug-in, is not set");
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(absl::StrCat("'", program, "' version").c_str(), "r"),
                                                   ::pclose);
  std::string text;
  std::array<char, 4096> buffer;
  while (const size_t n = pipe == nullptr ? 0 : std::fread(buffer.data(), 1, buffer.size(), pipe.get())) {
    text.append(buffer.data(), n);
  }
  const std::string line = text.substr(0, text.find('\n'));
  const size_t space = line.find(' ');
  if (space == std::string::npos) return absl::InternalError(absl::StrCat(program, " version says: ", text));
  return line.substr(space + 1);
}

absl::StatusOr<const ops::CudaPlugin*> OpenOnce() {
  SHOAL_ASSIGN_OR_RETURN(const std::string build, ProgramBuild());
  return device::OpenCudaPlugin(device::CudaPluginPath(), build);
}

// The program starts the driver to say its version; a test opens many devices.
absl::StatusOr<const ops::CudaPlugin*> Open() {
  static const absl::StatusOr<const ops::CudaPlugin*> plugin = OpenOnce();
  return plugin;
}

absl::StatusOr<std::unique_ptr<ops::CudaProbe>> Probe() {
  SHOAL_ASSIGN_OR_RETURN(const ops::CudaPlugin* const plugin, Open());
  auto probe = std::make_unique<ops::CudaProbe>();
  plugin->probe(probe.get());
  return probe;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenAccelerator(ops::Numerics numerics, int index) {
  SHOAL_ASSIGN_OR_RETURN(const ops::CudaPlugin* const plugin, Open());
  const auto probe = std::make_unique<ops::CudaProbe>();
  plugin->probe(probe.get());
  if (probe->state != ops::CudaState::kReady) return absl::UnavailableError(device::DescribeCuda(*probe));
  std::unique_ptr<ops::Accelerator> accelerator;
  SHOAL_RETURN_IF_ERROR(plugin->open(index, numerics, &accelerator));
  return accelerator;
}

int DeviceCount() {
  const auto probe = Probe();
  return probe.ok() ? (*probe)->device_count : 0;
}

int ComputeCapability() {
  const auto probe = Probe();
  if (!probe.ok() || (*probe)->device_count == 0) return 0;
  return 10 * (*probe)->devices[0].compute_major + (*probe)->devices[0].compute_minor;
}

const ops::OpTable* PluginTable(ops::Numerics numerics) {
  const auto plugin = Open();
  return plugin.ok() ? (*plugin)->table(numerics) : nullptr;
}

std::string DescribeDevice() {
  const auto probe = Probe();
  if (!probe.ok()) return std::string(probe.status().message());
  return absl::StrCat(device::CudaPluginPath(), "\n", device::DescribeCuda(**probe));
}

bool SmallSizes() {
  const char* sizes = std::getenv("SHOAL_GPU_SIZES");
  return sizes != nullptr && std::string_view(sizes) == "small";
}

int ReportNotOpened(const absl::Status& why) {
  const bool none = absl::IsUnavailable(why);
  std::fprintf(stderr, "%s: %s\n", none ? "no device" : "the device does not open", std::string(why.message()).c_str());
  return none ? kNoDevice : 1;
}

}  // namespace shoal::gpu
