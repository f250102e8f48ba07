// The CUDA plug-in that the suite runs on: what SHOAL_CUDA_PLUGIN names (run sets it), or libshoal_cuda.so beside the
// binary; with emulated devices or real ones, which nothing here tells apart. One thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/numerics.h"

namespace shoal::gpu {

// Device `index` of it. The plug-in has to be of the build of SHOAL_BINARY, the program. Unavailable: it has no device
// to use, with the reason; others: as device::OpenCudaPlugin.
absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenAccelerator(ops::Numerics numerics = ops::Numerics::kInvariant,
                                                                  int index = 0);
// How many devices it has.
int DeviceCount();
// Of device 0: 90 is compute capability 9.0. 0: there is none.
int ComputeCapability();
// Its ops, device or not; null: it does not open.
const ops::OpTable* PluginTable(ops::Numerics numerics);

// For a person: the plug-in, its device and the driver.
std::string DescribeDevice();

// A device with so much memory gets sizes of real models; an emulated one has less, and gets small ones.
inline constexpr size_t kLargeDevice = size_t{16} << 30;
// Whether every device gets small ones: SHOAL_GPU_SIZES=small, for tools under which a device is slow.
bool SmallSizes();

// For a program of the suite whose OpenAccelerator() failed: says so on stderr and returns its exit code, kNoDevice
// where there is none.
int ReportNotOpened(const absl::Status& why);
inline constexpr int kNoDevice = 3;

}  // namespace shoal::gpu
