// The CUDA plug-in without CUDA: libshoal_cuda_emulated.so has emulated devices, so that the whole program runs with
// --device cuda where there is no GPU (SHOAL_CUDA_PLUGIN names it). From the environment:
//   SHOAL_EMULATED_DEVICES  how many there are; 2 unless told
//   SHOAL_EMULATED_MEMORY   bytes of each; 1 GiB unless told. Processes do not share them: each has all of it
//   SHOAL_EMULATED_LAZY     1: work runs as late as it can
//   SHOAL_EMULATED_PEERS    0: no device reaches the memory of another
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/build_id.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "kernels/ops/cuda_plugin.h"

namespace shoal::cuda {
namespace {

struct Settings {
  uint64_t devices = 2, memory = uint64_t{1} << 30, lazy = 0, peers = 1;
};

absl::Status Read(const char* name, uint64_t least, uint64_t most, uint64_t* value) {
  const char* text = std::getenv(name);
  if (text == nullptr) return absl::OkStatus();
  if (absl::SimpleAtoi(text, value) && *value >= least && *value <= most) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name, "=", text, ": not a number from ", least, " to ", most));
}

absl::StatusOr<Settings> ReadSettings() {
  Settings s;
  SHOAL_RETURN_IF_ERROR(Read("SHOAL_EMULATED_DEVICES", 0, ops::kCudaMaxDevices, &s.devices));
  SHOAL_RETURN_IF_ERROR(Read("SHOAL_EMULATED_MEMORY", 0, uint64_t{1} << 50, &s.memory));
  SHOAL_RETURN_IF_ERROR(Read("SHOAL_EMULATED_LAZY", 0, 1, &s.lazy));
  SHOAL_RETURN_IF_ERROR(Read("SHOAL_EMULATED_PEERS", 0, 1, &s.peers));
  return s;
}

void Probe(ops::CudaProbe* out) {
  *out = {};
  out->runtime_version = 13000;
  out->driver_version = 13000;
  out->driver_needed = 13000;
  const absl::StatusOr<Settings> settings = ReadSettings();
  if (!settings.ok()) {
    out->state = ops::CudaState::kError;
    std::snprintf(out->detail, sizeof out->detail, "%s", std::string(settings.status().message()).c_str());
    return;
  }
  out->device_count = static_cast<int32_t>(settings->devices);
  out->state = out->device_count > 0 ? ops::CudaState::kReady : ops::CudaState::kNoDevice;
  for (int i = 0; i < out->device_count; ++i) {
    ops::CudaDevice& device = out->devices[i];
    std::snprintf(device.name, sizeof device.name, "Emulated device");
    device.compute_major = 9;  // as which the played cuBLASLt multiplies
    device.shared_bytes = ops::kCudaMinSharedBytes;
    device.multiprocessors = EmulatedOptions().multiprocessors;
    device.memory_bytes = settings->memory;
    device.uuid[15] = static_cast<uint8_t>(i);
    device.usable = 1;
  }
}

// cuBLASLt is played, too (fake_cuda/fake_cublaslt.cc), and works in a workspace that it never looks at. It multiplies
// fp8 as a Hopper's does.
struct PlayedGemm {
  static constexpr int64_t kBytes = 1 << 20, kTokens = 256;
  alignas(16) uint8_t codes[kBytes];
  alignas(16) float scales[kTokens];
  std::byte workspace;
  std::unique_ptr<LibraryGemm> gemm;
};
absl::StatusOr<std::shared_ptr<LibraryGemm>> OpenGemm(ops::Numerics numerics) {
  if (numerics != ops::Numerics::kFast) return nullptr;
  const auto played = std::make_shared<PlayedGemm>();
  const GemmScratch scratch = {played->codes, played->scales, PlayedGemm::kBytes, PlayedGemm::kTokens};
  SHOAL_ASSIGN_OR_RETURN(played->gemm, OpenCublasLtGemm(&played->workspace, scratch));
  return std::shared_ptr<LibraryGemm>(played, played->gemm.get());
}

absl::Status Open(int index, ops::Numerics numerics, std::unique_ptr<ops::Accelerator>* out) {
  SHOAL_ASSIGN_OR_RETURN(const Settings settings, ReadSettings());
  if (index < 0 || static_cast<uint64_t>(index) >= settings.devices)
    return absl::FailedPreconditionError(absl::StrCat("CUDA device ", index, ": there are ", settings.devices));
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<LibraryGemm> gemm, OpenGemm(numerics));
  *out = MakeEmulatedAccelerator({.table = &Table(numerics),
                                  .gemm = std::move(gemm),
                                  .device = index,
                                  .memory_bytes = settings.memory,
                                  .pace = settings.lazy != 0 ? emulated::Pace::kLazy : emulated::Pace::kEager,
                                  .reaches_peers = settings.peers != 0});
  return absl::OkStatus();
}

const ops::OpTable* OpsTable(ops::Numerics numerics) { return &Table(numerics); }

}  // namespace
}  // namespace shoal::cuda

__attribute__((visibility("default"))) const shoal::ops::CudaPlugin* shoal_cuda_plugin() {
  static const shoal::ops::CudaPlugin plugin = {shoal::ops::kCudaPluginAbi, sizeof(shoal::ops::CudaPlugin),
                                                shoal::cuda::kBuildId,      shoal::cuda::Probe,
                                                shoal::cuda::Open,          shoal::cuda::OpsTable};
  return &plugin;
}
