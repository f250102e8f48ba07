// A plug-in without CUDA: ABI, build and devices are what the test wants. SHOAL_FAKE_ABI comes from CMakeLists.txt.
#include <cstdio>

#include "kernels/ops/cuda_plugin.h"

namespace {

void Probe(shoal::ops::CudaProbe* out) {
  *out = {};
  out->state = shoal::ops::CudaState::kReady;
  out->runtime_version = 13000;
  out->driver_version = 13010;
  out->driver_needed = 13000;
  constexpr int kDevices = 3;
  constexpr int kCapability[kDevices][2] = {{9, 0}, {7, 5}, {8, 9}};
  constexpr uint32_t kSharedKiB[kDevices] = {227, 64, 99};
  out->device_count = kDevices;
  for (int i = 0; i < kDevices; ++i) {
    shoal::ops::CudaDevice& device = out->devices[i];
    std::snprintf(device.name, sizeof device.name, "Fake %d", i);
    device.compute_major = kCapability[i][0];
    device.compute_minor = kCapability[i][1];
    device.shared_bytes = kSharedKiB[i] << 10;
    device.memory_bytes = (uint64_t{40} << 30) + (uint64_t{1} << 29);
    for (int b = 0; b < 16; ++b) device.uuid[b] = static_cast<uint8_t>(b + 16 * i);
    device.usable = i == 0 ? 1 : 0;
  }
}

}  // namespace

const shoal::ops::CudaPlugin* shoal_cuda_plugin() {
  static const shoal::ops::CudaPlugin plugin = {
      SHOAL_FAKE_ABI, sizeof(shoal::ops::CudaPlugin), "fake-build", Probe, nullptr, nullptr};
  return &plugin;
}
