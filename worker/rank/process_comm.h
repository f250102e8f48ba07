// How a rank process comes to its channels. Shared memory is inherited; another transport takes a rendezvous: the rank
// publishes an address in its result ring (state kConnecting), and the plan ring brings those of all ranks.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "common/plan/ring.h"
#include "common/plan/wire_setup.h"
#include "kernels/ops/accelerator.h"
#include "worker/comm/collective.h"
#include "worker/comm/nccl_api.h"
#include "worker/rank/control_page.h"

namespace shoal::rank {

// What nccl works with; both outlive the channels. Null: this rank is on no device.
struct DeviceParts {
  ops::Accelerator* accelerator = nullptr;
  comm::NcclApi* nccl = nullptr;
};

// `segment`: the inherited channels, used by shm only. Blocks until the group is connected. Aborted: told to stop;
// DeadlineExceeded or Unavailable: a rank did not connect; InvalidArgument: an address is malformed;
// FailedPrecondition: nccl without a device, or without a library that will do.
absl::StatusOr<comm::RankComm> OpenChannels(const plan::RankSetup& setup, const comm::GroupShape& shape,
                                            std::span<std::byte> segment, plan::RingReader& plans,
                                            plan::RingWriter& results, ControlPage* page,
                                            const DeviceParts& device = {});

}  // namespace shoal::rank
