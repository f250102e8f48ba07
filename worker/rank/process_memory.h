// How a rank process comes to its device, its weights and its KV cache: regions behind inherited descriptors, in the
// host's memory or in a CUDA device's.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "common/plan/wire_setup.h"
#include "worker/device/device.h"
#include "worker/device/memory.h"
#include "worker/rank/process_comm.h"

namespace shoal::rank {

struct RankMemory {
  // The host's, mapped; a device's is mapped until its process ends.
  device::SharedMemory host_weights, host_kv;
  std::unique_ptr<device::Device> device;
  DeviceParts parts;
  std::span<const std::byte> weights;  // in the device's memory
  std::span<std::byte> kv;
};

// Takes kWeightsFd and kKvFd. Errors: there is no such backend, no such device, no NCCL in the plug-in where the group
// wants it, the descriptors are of something else, or the device's own.
absl::StatusOr<RankMemory> AttachMemory(const plan::RankSetup& setup);

}  // namespace shoal::rank
