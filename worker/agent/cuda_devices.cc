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

namespace {

// Where a device is small, as emulated ones are, no more than a 32th of it.
int64_t Bounded(int64_t bytes, int64_t device_bytes) { return std::min(bytes, device_bytes / 32); }

absl::Status CheckIds(const CudaDevices::Wanted& wanted, const ops::CudaProbe& probe) {
  if (wanted.slots > 0 && wanted.slots != static_cast<int>(wanted.ids.size())) {
    return absl::FailedPreconditionError(
        absl::StrCat(wanted.slots, " slots, and ", wanted.ids.size(),
                     " CUDA devices are named for them: ", absl::StrJoin(wanted.ids, ",")));
  }
  for (const int id : wanted.ids) {
    const bool there = id >= 0 && id < std::min(probe.device_count, ops::kCudaMaxDevices);
    if (there && probe.devices[id].usable != 0) continue;
    return absl::FailedPreconditionError(absl::StrCat("CUDA device ", id, there ? " cannot be used" : " is not there",
                                                      ":\n", device::DescribeCuda(probe)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDevices>> CudaDevices::Find(const maker::Makers* makers, const Wanted& wanted) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ops::CudaProbe> probe, makers->Probe());
  if (probe->state != ops::CudaState::kReady) return absl::FailedPreconditionError(device::DescribeCuda(*probe));
  if (!wanted.ids.empty()) SHOAL_RETURN_IF_ERROR(CheckIds(wanted, *probe));
  auto found = std::make_unique<CudaDevices>(makers, *probe, wanted);
  if (static_cast<int>(found->slots().size()) < wanted.slots) {
    return absl::FailedPreconditionError(absl::StrCat(wanted.slots, " slots, one for each CUDA device, and ",
                                                      found->slots().size(), " can be used here:\n",
                                                      device::DescribeCuda(*probe)));
  }
  return found;
}

CudaDevices::CudaDevices(const maker::Makers* makers, const ops::CudaProbe& probe, const Wanted& wanted)
    : makers_(makers), utilization_(wanted.utilization), driver_(absl::StrCat("driver", probe.driver_version)) {
  const int there = std::min(probe.device_count, ops::kCudaMaxDevices);
  std::vector<int> ids = wanted.ids;
  for (int i = 0; wanted.ids.empty() && i < there; ++i) ids.push_back(i);
  for (const int i : ids) {
    if (i < 0 || i >= there || probe.devices[i].usable == 0) continue;
    if (wanted.slots > 0 && static_cast<int>(slots_.size()) == wanted.slots) break;
    const ops::CudaDevice& d = probe.devices[i];
    const auto sharers = std::max<int64_t>(1, std::count(wanted.ids.begin(), wanted.ids.end(), i));
    slots_.push_back({device::kCuda, std::max(1, d.multiprocessors),
                      static_cast<int64_t>(static_cast<double>(d.memory_bytes) * utilization_) / sharers});
    devices_.push_back({i, absl::StrCat(absl::StrReplaceAll(std::string(d.name), {{" ", "_"}}), "-", d.compute_major,
                                        ".", d.compute_minor)});
  }
}

int CudaDevices::Sharers(int32_t slot) const {
  const int index = Index(slot);
  return static_cast<int>(
      std::count_if(devices_.begin(), devices_.end(), [index](const Device& d) { return d.index == index; }));
}

std::vector<std::string> CudaDevices::Environment(int32_t slot, const std::string& rank_name) const {
  if (Sharers(slot) == 1) return {};
  return {absl::StrCat("NCCL_HOSTID=", rank_name)};
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
  const int64_t sharers = Sharers(slot);
  const int64_t contexts = (sharers - 1) * Bounded(kContext, free.total);  // beside the one that was measured
  const int64_t part = (free.bytes + working - unused - contexts) / sharers;
  return std::max<int64_t>(0, part - working - Bounded(kReserve, free.total));
}

int64_t CudaDevices::InUse(int32_t slot, int64_t working, ops::Numerics numerics) {
  MutexLock lock(mutex_);
  const auto found = measured_.find({slot, working, numerics});
  return found == measured_.end() ? 0 : found->second.total - found->second.bytes;
}

}  // namespace shoal::agent
