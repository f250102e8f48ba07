// The token ids of a batch, of which some are still on the device, in the mailbox that `sample` writes (sample.h).
//   ids[t] = sources[t] >= 0 ? sources[t] : mailbox[~sources[t]]
// So a row may continue from a sample of a step whose result the host has not seen.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct GatherIds {
  const int32_t* sources;  // [tokens], on the device: an id, or ~(slot * max_samples + index)
  const int32_t* mailbox;  // [slots, max_samples], on the device
  int32_t* ids;            // [tokens]; may alias sources
  int tokens;
};
absl::Status Enqueue(DeviceStream stream, const GatherIds& op);

}  // namespace shoal::cuda
