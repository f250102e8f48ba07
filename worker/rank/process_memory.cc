// Tested by: tests/process/process_test.cc, tests/e2e/cuda_test.py
#include "worker/rank/process_memory.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/nccl_plugin.h"
#include "worker/device/cuda_plugin.h"
#include "worker/device/open.h"
#include "worker/rank/process.h"
#include "worker/rank/shape.h"

namespace shoal::rank {
namespace {

absl::Status Named(const char* what, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
}

absl::StatusOr<device::SharedMemory> MapHost(int fd, bool writable, const char* what) {
  auto memory = device::SharedMemory::Attach(fd, writable);
  return memory.ok() ? std::move(memory) : Named(what, memory.status());
}

// The mapping keeps the memory: the descriptor is not needed any more.
absl::StatusOr<std::span<std::byte>> MapDevice(ops::Accelerator& accelerator, int fd, int64_t bytes, const char* what) {
  const absl::StatusOr<void*> memory = accelerator.MapShared(fd, static_cast<size_t>(bytes));
  if (!memory.ok()) return Named(what, memory.status());
  ::close(fd);
  return std::span<std::byte>(static_cast<std::byte*>(*memory), static_cast<size_t>(bytes));
}

absl::StatusOr<RankMemory> AttachCuda(const plan::RankSetup& setup) {
  SHOAL_ASSIGN_OR_RETURN(const Numerics numerics, ResolveNumerics(setup.engine));
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<ops::Accelerator> accelerator,
                         device::OpenAccelerator(setup.device_index, numerics.mode));
  RankMemory out;
  SHOAL_ASSIGN_OR_RETURN(out.weights, MapDevice(*accelerator, kWeightsFd, setup.weights_bytes, "weights"));
  SHOAL_ASSIGN_OR_RETURN(out.kv, MapDevice(*accelerator, kKvFd, setup.kv_bytes, "KV cache"));
  out.parts.accelerator = accelerator.get();
  if (setup.engine.transport == "nccl") {
    SHOAL_ASSIGN_OR_RETURN(out.parts.nccl, comm::NcclOfPlugin(device::CudaPluginPath()));
  }
  SHOAL_ASSIGN_OR_RETURN(out.device, device::MakeAcceleratorDevice(std::move(accelerator)));
  return out;
}

}  // namespace

absl::StatusOr<RankMemory> AttachMemory(const plan::RankSetup& setup) {
  if (setup.engine.device == device::kCuda) return AttachCuda(setup);
  SHOAL_ASSIGN_OR_RETURN(const ops::OpTable* table, device::FindTable(setup.engine.device));
  RankMemory out;
  SHOAL_ASSIGN_OR_RETURN(out.host_weights, MapHost(kWeightsFd, false, "weights"));
  SHOAL_ASSIGN_OR_RETURN(out.host_kv, MapHost(kKvFd, true, "KV cache"));
  out.device = device::MakeHostDevice(table, setup.threads);
  out.weights = {out.host_weights.data(), out.host_weights.size()};
  out.kv = {out.host_kv.data(), out.host_kv.size()};
  return out;
}

}  // namespace shoal::rank
