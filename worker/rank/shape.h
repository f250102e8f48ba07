// What a rank and its agent must compute alike from the same arguments.
#pragma once

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/model/model_config.h"
#include "common/plan/control.h"
#include "kernels/ops/numerics.h"
#include "worker/comm/collective.h"

namespace shoal::rank {

// Channels that hold the largest plan: activations [max_tokens, hidden] f32, one token for each running sequence.
comm::GroupShape ChannelShape(const model::ModelConfig& model, const plan::MirrorLimits& limits, int tp, int pp);

// Capacity of a rank's result ring: room for the answers of several of the largest plans, one token for each running
// sequence.
int64_t ResultRingCapacity(const plan::MirrorLimits& limits);

// The numeric choices behind "auto". InvalidArgument names the option, its value and what there is.
struct Numerics {
  bool compute_f32 = false;
  DType kv = DType::kF16;
  // On a CUDA device. The other backends have one mode, which keeps what either promises: both names are the same
  // there.
  ops::Numerics mode = ops::Numerics::kInvariant;
};
absl::StatusOr<Numerics> ResolveNumerics(const plan::EngineOptions& engine);

}  // namespace shoal::rank
