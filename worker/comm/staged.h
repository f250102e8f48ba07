// A host's transport for ranks whose data lie on a device: they go through host memory, and the device is waited for.
// The way of devices whose own libraries are not there, and of tests.
#pragma once

#include "worker/comm/collective.h"
#include "worker/device/device.h"

namespace shoal::comm {

// Channels over device memory, on top of those of a host. Tensor sums are of activations in bf16, rounded once.
// `device` outlives them.
RankComm MakeStaged(RankComm host, device::Device* device);

}  // namespace shoal::comm
