// Opens the CUDA backend, a library of its own, so that one program runs on machines with and without GPUs. No CUDA
// header is needed to use it. Any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops/cuda_plugin.h"

namespace shoal::device {

// Where the plug-in is looked for, whether it is there or not: the environment's SHOAL_CUDA_PLUGIN, else
// libshoal_cuda.so beside this program.
std::string CudaPluginPath();

// A plug-in of the ABI of this program and of the build called `build_id` (BuildId()). It stays loaded until the
// process ends: the CUDA runtime cannot be unloaded. Opening starts no driver. Every error names the file and what to
// do:
//   NotFound             there is no such file: this program was built without CUDA
//   InvalidArgument      it is no library, one that does not load here, or no plug-in
//   FailedPrecondition   it is of another ABI or another build
absl::StatusOr<const ops::CudaPlugin*> OpenCudaPlugin(const std::string& path, const std::string& build_id);

// What a probe found, for a person. The first line has the CUDA version and the driver, or the reason why no device can
// be used and what helps; one more line per device, without a line end after the last.
//   CUDA 13.0, driver 13.1, 1 device
//     0  NVIDIA H200  compute capability 9.0  139.8 GiB  GPU-6f2a...
std::string DescribeCuda(const ops::CudaProbe& probe);

}  // namespace shoal::device
