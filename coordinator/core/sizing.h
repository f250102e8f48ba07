// How large the KV cache becomes, from what the ranks say about themselves. Pure.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/plan/control.h"
#include "coordinator/core/core.h"

namespace shoal::core {

// Limits known before any rank has answered: blocks = 0, max_model_len as asked for or as trained.
plan::MirrorLimits LimitsBefore(const CoreOptions& options);

// What kv_blocks and max_model_len are when they were asked for.
enum class Demand : uint8_t {
  kExact,   // the group has them, or there is none
  kAtMost,  // a group with fewer ranks than asked for may have less
};

// Final limits. Blocks: the least that a rank has room for beside its weights, within kv_memory_bytes, and no more than
// max_num_seqs sequences of max_model_len tokens could use; kv_blocks, when given, exactly. max_model_len is lowered to
// the cache unless it was asked for: then ResourceExhausted says what would fit, as for kv_blocks that have no room.
absl::StatusOr<plan::MirrorLimits> SizeCache(const CoreOptions& options, std::span<const plan::JoinReply::Rank> ranks,
                                             Demand demand = Demand::kExact);

// Which rank has room for the fewest blocks, the first of several; -1: they do not say.
int32_t TightestRank(const CoreOptions& options, std::span<const plan::JoinReply::Rank> ranks);

}  // namespace shoal::core
