#include "worker/device/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace shoal::device {
namespace {

// CUDA counts 13.1 as 13010.
std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

// As nvidia-smi writes it.
std::string Uuid(const ops::CudaDevice& device) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppend(&text, absl::Hex(device.uuid[i], absl::kZeroPad2));
  }
  return text;
}

std::string DeviceLine(int index, const ops::CudaDevice& device) {
  char gib[32];
  std::snprintf(gib, sizeof gib, "%.1f", static_cast<double>(device.memory_bytes) / (1 << 30));
  std::string line = absl::StrCat("  ", index, "  ", device.name, "  compute capability ", device.compute_major, ".",
                                  device.compute_minor, "  ", gib, " GiB  ", Uuid(device));
  if (device.usable == 0) {
    absl::StrAppend(&line, "  not usable: ");
    if (device.compute_major < ops::kCudaMinComputeMajor) {
      absl::StrAppend(&line, ops::kCudaMinComputeMajor, ".0 or later is needed");
    } else {
      absl::StrAppend(&line, "a block has ", device.shared_bytes >> 10, " KiB of shared memory, ",
                      ops::kCudaMinSharedBytes >> 10, " are needed");
    }
  }
  return line;
}

std::string Summary(const ops::CudaProbe& probe) {
  switch (probe.state) {
    case ops::CudaState::kReady:
      return absl::StrCat(probe.device_count, probe.device_count == 1 ? " device" : " devices");
    case ops::CudaState::kNoDriver:
      return "no device: the NVIDIA driver is missing (libcuda.so.1 cannot be loaded); install it, or give the "
             "container access to the GPUs";
    case ops::CudaState::kDriverTooOld:
      return absl::StrCat("no device: the driver is too old; install one for CUDA ", Version(probe.driver_needed),
                          " or later");
    case ops::CudaState::kNoDevice:
      return "no device: the driver shows none (is CUDA_VISIBLE_DEVICES set?)";
    case ops::CudaState::kNoneUsable:
      return absl::StrCat("no usable device: compute capability ", ops::kCudaMinComputeMajor, ".0 or later and ",
                          ops::kCudaMinSharedBytes >> 10, " KiB of shared memory for a block are needed");
    case ops::CudaState::kError:
      return absl::StrCat("no device: ", probe.detail);
  }
  return absl::StrCat("no device: unknown state ", static_cast<int>(probe.state));
}

// Why a loaded library is not the one to use; OK when it is.
absl::Status Check(const std::string& path, const ops::CudaPlugin& plugin, const std::string& build_id) {
  if (plugin.abi != ops::kCudaPluginAbi || plugin.size != sizeof(ops::CudaPlugin)) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA plug-in ", path, " has interface ", plugin.abi,
                                                      ", this program needs ", ops::kCudaPluginAbi,
                                                      ": build both from the same sources (make cuda)"));
  }
  if (build_id != plugin.build_id) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA plug-in ", path, " is of build ", plugin.build_id,
                                                      ", this program of build ", build_id,
                                                      ": build both from the same sources (make cuda)"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string CudaPluginPath() {
  const char* named = std::getenv("SHOAL_CUDA_PLUGIN");
  if (named != nullptr && *named != '\0') return named;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path() / ops::kCudaPluginFile).string();
}

absl::StatusOr<const ops::CudaPlugin*> OpenCudaPlugin(const std::string& path, const std::string& build_id) {
  if (::access(path.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("there is no CUDA plug-in at ", path,
                                            ": build it with `make cuda`, or name it in SHOAL_CUDA_PLUGIN"));
  }
  // With a slash, so that a bare name means this file and not one of the system's libraries.
  const std::string file = std::filesystem::absolute(path).string();
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("CUDA plug-in ", path, " cannot be loaded: ", ::dlerror()));
  }
  using Entry = decltype(&shoal_cuda_plugin);
  const auto entry = reinterpret_cast<Entry>(::dlsym(library, ops::kCudaPluginEntry));
  absl::Status status = entry == nullptr
                            ? absl::InvalidArgumentError(absl::StrCat(path, " is no CUDA plug-in of shoal: it has no ",
                                                                      ops::kCudaPluginEntry, "()"))
                            : Check(path, *entry(), build_id);
  if (!status.ok()) {
    ::dlclose(library);
    return status;
  }
  return entry();
}

std::string DescribeCuda(const ops::CudaProbe& probe) {
  std::string text = absl::StrCat("CUDA ", Version(probe.runtime_version));
  if (probe.driver_version != 0) absl::StrAppend(&text, ", driver ", Version(probe.driver_version));
  absl::StrAppend(&text, ", ", Summary(probe));
  for (int i = 0; i < std::min(probe.device_count, ops::kCudaMaxDevices); ++i) {
    absl::StrAppend(&text, "\n", DeviceLine(i, probe.devices[i]));
  }
  return text;
}

}  // namespace shoal::device
