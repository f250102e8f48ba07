#include "tools/cli/device_choice.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "worker/device/cuda_plugin.h"
#include "worker/device/open.h"

namespace shoal::cli {
namespace {

// A driver's kernel part shows itself here.
bool DriverIsVisible() { return ::access("/proc/driver/nvidia/version", F_OK) == 0; }

bool PluginIsNamed() {
  const char* named = std::getenv("SHOAL_CUDA_PLUGIN");
  return named != nullptr && *named != '\0';
}

// OK: there is a device to use.
absl::Status LookForCuda(const maker::Makers& makers) {
  const absl::StatusOr<std::unique_ptr<ops::CudaProbe>> probe = makers.Probe();
  if (!probe.ok()) return probe.status();
  if ((*probe)->state == ops::CudaState::kReady) return absl::OkStatus();
  return absl::FailedPreconditionError(device::DescribeCuda(**probe));
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& wanted, const maker::Makers& makers) {
  if (wanted != "auto" && wanted != device::kCuda) return DeviceChoice{wanted, ""};
  if (wanted == "auto" && !PluginIsNamed() && ::access(device::CudaPluginPath().c_str(), F_OK) != 0 &&
      !DriverIsVisible()) {
    return DeviceChoice{"cpu", ""};
  }
  const absl::Status found = LookForCuda(makers);
  if (found.ok()) return DeviceChoice{device::kCuda, ""};
  if (absl::IsCancelled(found)) return found;
  if (wanted == device::kCuda) {
    return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", found.message()));
  }
  const std::string why = absl::StrReplaceAll(std::string(found.message()), {{"\n", "; "}});
  return DeviceChoice{"cpu", absl::StrCat("--device auto: the CPU. ", why)};
}

}  // namespace shoal::cli
