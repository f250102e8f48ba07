// The channel ends of one rank over Gloo. Internal to worker/comm/gloo.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"
#include "worker/comm/gloo_mesh.h"

namespace shoal::comm {

// What all channel ends of one rank share.
struct GlooRank {
  GlooRank(const GroupShape& group, int number)
      : shape(group), rank(number), stage(number / group.tp), tensor_index(number % group.tp) {}

  int sampling_rank() const { return (shape.pp - 1) * shape.tp; }
  // The ranks that this one exchanges data with, ascending.
  std::vector<int> Peers() const;

  const GroupShape shape;
  const int rank, stage, tensor_index;
  CommStats stats = {};
  std::unique_ptr<GlooMesh> mesh;
};

// Each posts its receives. The connections must stand.
absl::StatusOr<std::unique_ptr<TensorChannel>> MakeGlooTensor(std::shared_ptr<GlooRank> rank);
absl::StatusOr<std::unique_ptr<StageSender>> MakeGlooSender(std::shared_ptr<GlooRank> rank);      // to the next stage
absl::StatusOr<std::unique_ptr<StageReceiver>> MakeGlooReceiver(std::shared_ptr<GlooRank> rank);  // from the previous
// Both ends, as far as the rank has them.
struct GlooMailboxes {
  std::unique_ptr<TokenMailbox> out, in;
};
absl::StatusOr<GlooMailboxes> MakeGlooMailboxes(std::shared_ptr<GlooRank> rank);

}  // namespace shoal::comm
