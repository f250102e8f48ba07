// How a kernel is launched on a device: Launch(stream, "name", {grid, block, shared bytes}, kernel, arguments...).
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/last_launch.h"
#include "kernels/cuda/status.h"

namespace shoal::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};

// The error is of the launch itself; what the kernel does wrong shows at the stream's next synchronisation.
template <typename... P, typename... A>
absl::Status Launch(cudaStream_t stream, const char* name, const LaunchShape& shape, void (*kernel)(P...), A... a) {
  constexpr size_t kStatic = 48 << 10;  // what a kernel gets without asking (CUDA C++ Programming Guide, 7.2.3)
  if (shape.shared_bytes > kStatic) {
    const cudaError_t raised =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shape.shared_bytes));
    if (raised != cudaSuccess) return ToStatus(raised, name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  NoteLaunch(name);
  return ToStatus(cudaLaunchKernelEx(&config, kernel, static_cast<P>(a)...), name);
}

}  // namespace shoal::cuda
