#include "worker/agent/cuda_devices.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "worker/device/cuda_plugin.h"
#include "worker/device/open.h"

namespace shoal::agent {

absl::StatusOr<std::unique_ptr<CudaDevices>> CudaDevices::Find(const maker::Makers* makers, int slots,
                                                               double utilization) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ops::CudaProbe> probe, makers->Probe());
  if (probe->state != ops::CudaState::kReady) return absl::FailedPreconditionError(device::DescribeCuda(*probe));
  auto found = std::make_unique<CudaDevices>(makers, *probe, slots, utilization);
  if (static_cast<int>(found->slots().size()) < slots) {
    return absl::FailedPreconditionError(absl::StrCat(slots, " slots, one for each CUDA device, and ",
                                                      found->slots().size(), " can be used here:\n",
                                                      device::DescribeCuda(*probe)));
  }
  return found;
}

CudaDevices::CudaDevices(const maker::Makers* makers, const ops::CudaProbe& probe, int slots, double utilization)
    : makers_(makers), utilization_(utilization), driver_(absl::StrCat("driver", probe.driver_version)) {
  for (int i = 0; i < std::min(probe.device_count, ops::kCudaMaxDevices); ++i) {
    const ops::CudaDevice& d = probe.devices[i];
    if (d.usable == 0 || (slots > 0 && static_cast<int>(slots_.size()) == slots)) continue;
    slots_.push_back({device::kCuda, std::max(1, d.multiprocessors),
                      static_cast<int64_t>(static_cast<double>(d.memory_bytes) * utilization)});
    devices_.push_back({i, absl::StrCat(absl::StrReplaceAll(std::string(d.name), {{" ", "_"}}), "-", d.compute_major,
                                        ".", d.compute_minor)});
  }
}

std::string CudaDevices::Numerics(const std::vector<int32_t>& slots) const {
  std::set<std::string> names;
  for (const int32_t slot : slots) names.insert(devices_[static_cast<size_t>(slot)].name);
  return absl::StrCat(absl::StrJoin(names, "+"), "/", driver_);
}

absl::StatusOr<int64_t> CudaDevices::Offer(int32_t slot, int64_t working, int64_t held, ops::Numerics numerics) {
  MutexLock lock(mutex_);
  auto found = measured_.find({slot, working, numerics});
  if (found == measured_.end()) {
    SHOAL_ASSIGN_OR_RETURN(const maker::Makers::Measured now, makers_->Measure(Index(slot), working, numerics));
    found = measured_.insert({{slot, working, numerics}, {now.free + held, now.total}}).first;
  }
  const Free& free = found->second;
  const auto unused = static_cast<int64_t>((1 - utilization_) * static_cast<double>(free.total));
  return std::max<int64_t>(0, free.bytes - unused - std::min(kReserve, free.total / 32));
}

int64_t CudaDevices::InUse(int32_t slot, int64_t working, ops::Numerics numerics) {
  MutexLock lock(mutex_);
  const auto found = measured_.find({slot, working, numerics});
  return found == measured_.end() ? 0 : found->second.total - found->second.bytes;
}

}  // namespace shoal::agent
