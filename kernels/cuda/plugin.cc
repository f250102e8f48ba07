// The way into the plug-in: which build it is, what devices there are, and the device that is opened.
// The CUDA runtime is linked statically and loads the driver's libcuda.so.1 at its first call, so that this library
// opens on machines that have neither. Tested by: tests/device/cuda_plugin_test.cc
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "kernels/cuda/build_id.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"
#include "kernels/ops/cuda_plugin.h"

namespace shoal::cuda {
namespace {

// Within a major version of CUDA, a program runs on the driver of any earlier minor one (CUDA compatibility guide,
// "minor version compatibility").
constexpr int kDriverNeeded = CUDART_VERSION / 1000 * 1000;

void Fail(ops::CudaProbe* out, const char* what, cudaError_t error) {
  (void)cudaGetLastError();  // the next caller must not find it
  if (error == cudaErrorInsufficientDriver) {
    out->state = ops::CudaState::kDriverTooOld;
    return;
  }
  out->state = ops::CudaState::kError;
  std::snprintf(out->detail, sizeof out->detail, "%s: %s (%s)", what, cudaGetErrorString(error),
                cudaGetErrorName(error));
}

// The driver and the number of devices; true when there are devices to look at.
bool CountDevices(ops::CudaProbe* out) {
  cudaError_t error = cudaDriverGetVersion(&out->driver_version);
  if (error != cudaSuccess) {
    Fail(out, "cudaDriverGetVersion", error);
    return false;
  }
  if (out->driver_version == 0) {
    out->state = ops::CudaState::kNoDriver;
    return false;
  }
  if (out->driver_version < kDriverNeeded) {
    out->state = ops::CudaState::kDriverTooOld;
    return false;
  }
  int count = 0;
  error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    (void)cudaGetLastError();
    out->state = ops::CudaState::kNoDevice;
    return false;
  }
  if (error != cudaSuccess) {
    Fail(out, "cudaGetDeviceCount", error);
    return false;
  }
  out->device_count = std::min(count, ops::kCudaMaxDevices);
  return true;
}

void Probe(ops::CudaProbe* out) {
  LoadKernelsEagerly();
  *out = {};
  out->runtime_version = CUDART_VERSION;
  out->driver_needed = kDriverNeeded;
  if (!CountDevices(out)) return;
  out->state = ops::CudaState::kNoneUsable;
  for (int i = 0; i < out->device_count; ++i) {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) {
      out->device_count = 0;
      Fail(out, "cudaGetDeviceProperties", error);
      return;
    }
    ops::CudaDevice& device = out->devices[i];
    std::snprintf(device.name, sizeof device.name, "%s", properties.name);
    device.compute_major = properties.major;
    device.compute_minor = properties.minor;
    device.multiprocessors = properties.multiProcessorCount;
    device.shared_bytes = static_cast<uint32_t>(properties.sharedMemPerBlockOptin);
    device.memory_bytes = properties.totalGlobalMem;
    static_assert(sizeof device.uuid == sizeof properties.uuid);
    std::memcpy(device.uuid, &properties.uuid, sizeof device.uuid);
    const bool has_all =
        properties.major >= ops::kCudaMinComputeMajor && device.shared_bytes >= ops::kCudaMinSharedBytes;
    device.usable = has_all ? 1 : 0;
    if (device.usable != 0) out->state = ops::CudaState::kReady;
  }
}

absl::Status Open(int index, ops::Numerics numerics, std::unique_ptr<ops::Accelerator>* out) {
  absl::StatusOr<std::unique_ptr<ops::Accelerator>> opened = OpenDevice(index, numerics);
  if (opened.ok()) *out = std::move(*opened);
  return opened.status();
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
