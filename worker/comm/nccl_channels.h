// The channel ends of one rank over NCCL; nccl.cc puts them together.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"
#include "worker/comm/nccl_rank.h"

namespace shoal::comm {

// Working memory of the tensor channel, but for groups so large that their one-shots take more. Larger operations go in
// pieces.
inline constexpr size_t kNcclPieceBytes = 16 << 20;

// `link` may be null: a stage of one rank. Small sums go over the rank's peer memory, where it has some.
absl::StatusOr<std::unique_ptr<TensorChannel>> MakeNcclTensor(std::shared_ptr<NcclRank> rank, NcclLink* link);

// `link`: the ranks of this tensor index.
std::unique_ptr<StageSender> MakeNcclSender(std::shared_ptr<NcclRank> rank, NcclLink* link);
std::unique_ptr<StageReceiver> MakeNcclReceiver(std::shared_ptr<NcclRank> rank, NcclLink* link);

// The writer sends from slots of its own, on a queue of its own: its other work never waits for a reader, unless all
// slots are full. Readers receive on their main queue. `link` may be null: the sampling rank is the only reader.
struct NcclMailboxes {
  std::unique_ptr<TokenMailbox> out, in;  // what the rank has
};
absl::StatusOr<NcclMailboxes> MakeNcclMailboxes(std::shared_ptr<NcclRank> rank, NcclLink* link);

}  // namespace shoal::comm
