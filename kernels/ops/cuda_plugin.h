// What the CUDA backend, a library opened at run time (worker/device/cuda_plugin.h), and the program agree on. No CUDA
// headers. The first three fields of CudaPlugin are plain C and say whether both are of one build; only then is the
// rest used, where C++ types pass between them. A change before that point raises kCudaPluginAbi.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/cuda_needs.h"
#include "kernels/ops/numerics.h"

namespace shoal::ops {

inline constexpr uint32_t kCudaPluginAbi = 3;
inline constexpr char kCudaPluginFile[] = "libshoal_cuda.so";
inline constexpr char kCudaPluginEntry[] = "shoal_cuda_plugin";  // and worker/comm/nccl_api.h has another

inline constexpr int kCudaMaxDevices = 64;

// Why there is no device to use, or that there is one.
enum class CudaState : int32_t {
  kReady = 0,         // at least one device is usable
  kNoDriver = 1,      // libcuda.so.1, which comes with the driver, cannot be loaded
  kDriverTooOld = 2,  // driver_version is below driver_needed
  kNoDevice = 3,      // there is a driver and it shows no device
  kNoneUsable = 4,    // there are devices, and each lacks something of cuda_needs.h
  kError = 5,         // anything else; `detail` has the driver's words
};

struct CudaDevice {
  char name[256];  // ends with a 0
  int32_t compute_major, compute_minor;
  int32_t multiprocessors;
  uint32_t shared_bytes;  // that a block can ask for
  uint64_t memory_bytes;
  uint8_t uuid[16];
  int32_t usable;  // 1, or 0: it lacks something of cuda_needs.h
};

struct CudaProbe {
  CudaState state;
  int32_t runtime_version;              // what the plug-in was built with, as CUDA counts: 13000 is 13.0
  int32_t driver_version;               // the newest CUDA that the driver knows; 0: no driver
  int32_t driver_needed;                // the oldest that will do
  int32_t device_count;                 // entries of `devices`
  char detail[256];                     // kError: what failed and why; else empty
  CudaDevice devices[kCudaMaxDevices];  // as CUDA numbers them, CUDA_VISIBLE_DEVICES applied
};

struct CudaPlugin {
  uint32_t abi;  // kCudaPluginAbi; nothing after it may be read when it differs
  uint32_t size;
  // BuildId() of the program it was built with; `version` of any build says which that is.
  const char* build_id;
  // Fills all of `out`. Starts the driver (no context), so that this process may not fork and use CUDA in the child.
  // The first of it and open sets CUDA_MODULE_LOADING in the environment, unless it is set. Any thread.
  void (*probe)(CudaProbe* out);
  // The device `index` of the probe. Makes a context on it: some hundred MiB of its memory and tenths of a second.
  // FailedPrecondition: there is no such device, or it is not usable. Internal: the driver's words.
  // For Numerics::kFast, cuBLASLt is opened, too: FailedPrecondition where it is not installed.
  absl::Status (*open)(int index, Numerics numerics, std::unique_ptr<Accelerator>* out);
  // The ops of every accelerator that is opened so. What needs no stream (supports, packing, sizes) needs no driver
  // either. Any thread.
  const OpTable* (*table)(Numerics numerics);
};

}  // namespace shoal::ops

// Static data of the library. Never null.
extern "C" const shoal::ops::CudaPlugin* shoal_cuda_plugin();
