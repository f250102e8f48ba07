// What a JoinGroup comes to on this host: the model opened and checked, the shards and layouts of the ranks here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"
#include "common/plan/control.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/op_table.h"
#include "worker/agent/cuda_devices.h"
#include "worker/agent/shelf.h"
#include "worker/rank/shape.h"
#include "worker/weights/weights.h"

namespace shoal::agent {

struct LocalRank {
  int32_t rank = 0;
  int32_t slot_index = 0;  // in AgentInfo::slots
  plan::DeviceSlot slot;
  int device = device::SharedMemory::kHost;  // else the CUDA device of the slot
  plan::RankShard shard;
  weights::WeightLayout layout;  // points into the checkpoint
};

struct Joined {
  plan::JoinGroup join;
  model::ModelFiles files;
  std::shared_ptr<const model::Checkpoint> checkpoint;  // of the files, or dummy weights like them
  const ops::OpTable* table = nullptr;
  CudaDevices* cuda = nullptr;  // where the ranks are; null: on the host
  rank::Numerics numerics;
  comm::Transport transport = comm::Transport::kShm;
  std::string numerics_id;       // equal, and the same revision <=> the same bytes for the same request
  std::string weights_key;       // equal <=> loaded regions may be used again
  std::vector<LocalRank> ranks;  // of this agent, ascending
  bool has_first_rank = false;   // rank 0 is here: this agent makes the group's channels
  bool alone = false;            // all ranks are here
};

// Reads headers only. Errors, all worded for the operator: a model that cannot be opened or is another revision, more
// ranks than can be used, a device that is not there, tensors missing or misshapen, an assignment to slots that this
// agent does not have. Nothing is kept on failure.
// `cuda`: the agent's slots are on these; null: on the host.
absl::StatusOr<std::unique_ptr<Joined>> ResolveJoin(const plan::JoinGroup& join, const plan::AgentInfo& self,
                                                    CudaDevices* cuda = nullptr);

// Of the device, beside weights and KV cache: the rank's decoder.
int64_t WorkingBytes(const Joined& joined, const LocalRank& local);

// On CUDA devices their memory is measured, once; errors are CudaDevices::Offer's.
absl::StatusOr<plan::JoinReply> ReplyTo(const Joined& joined, const Shelf& shelf);

}  // namespace shoal::agent
