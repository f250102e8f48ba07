// The channel ends of one rank over a shared segment. See shm_layout.h for what lies where.
#pragma once

#include <memory>

#include "worker/comm/shm_layout.h"

namespace shoal::comm {

// What all channel ends of one rank share.
struct ShmRank {
  ShmRank(const GroupShape& shape, int rank, std::byte* memory, const AbortFlag* abort, WaitNote* note);

  Signal* SignalAt(size_t offset) const { return reinterpret_cast<Signal*>(memory + offset); }

  GroupShape shape;
  ShmLayout layout;
  int stage, tensor_index;
  std::byte* memory;
  CommStats stats = {};
  Waiter waiter;
};

std::unique_ptr<TensorChannel> MakeShmTensor(std::shared_ptr<ShmRank> rank);
std::unique_ptr<StageSender> MakeShmSender(std::shared_ptr<ShmRank> rank);      // to the next stage
std::unique_ptr<StageReceiver> MakeShmReceiver(std::shared_ptr<ShmRank> rank);  // from the previous one
std::unique_ptr<TokenMailbox> MakeShmMailbox(std::shared_ptr<ShmRank> rank);

}  // namespace shoal::comm
