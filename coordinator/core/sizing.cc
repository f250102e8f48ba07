#include "coordinator/core/sizing.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/plan_check.h"

namespace shoal::core {
namespace {

int64_t Mib(int64_t bytes) { return bytes / (1024 * 1024); }

// Blocks that fit beside the weights of one rank.
int64_t RoomFor(const CoreOptions& options, const plan::JoinReply::Rank& rank) {
  int64_t room = std::max<int64_t>(rank.memory_bytes - rank.weight_bytes, 0);
  if (options.kv_memory_bytes > 0) room = std::min(room, options.kv_memory_bytes);
  return room / rank.kv_bytes_per_block;
}

const plan::JoinReply::Rank* Tightest(const CoreOptions& options, std::span<const plan::JoinReply::Rank> ranks) {
  const plan::JoinReply::Rank* tightest = nullptr;
  for (const plan::JoinReply::Rank& rank : ranks) {
    if (rank.kv_bytes_per_block <= 0) return nullptr;
    if (tightest == nullptr || RoomFor(options, rank) < RoomFor(options, *tightest)) tightest = &rank;
  }
  return tightest;
}

}  // namespace

int32_t TightestRank(const CoreOptions& options, std::span<const plan::JoinReply::Rank> ranks) {
  const plan::JoinReply::Rank* const tightest = Tightest(options, ranks);
  return tightest == nullptr ? -1 : tightest->rank;
}

plan::MirrorLimits LimitsBefore(const CoreOptions& options) {
  plan::MirrorLimits limits;
  limits.block_size = options.engine.block_size;
  limits.max_tokens = options.max_num_batched_tokens;
  // A plan must be able to hold one decode row of everything that runs.
  limits.max_sequences = std::min(options.max_num_seqs, options.max_num_batched_tokens);
  limits.max_model_len = options.max_model_len > 0 ? options.max_model_len : options.model.max_position;
  limits.vocab = options.model.vocab;
  return limits;
}

absl::StatusOr<plan::MirrorLimits> SizeCache(const CoreOptions& options, std::span<const plan::JoinReply::Rank> ranks,
                                             Demand demand) {
  plan::MirrorLimits limits = LimitsBefore(options);
  for (const plan::JoinReply::Rank& rank : ranks) {
    if (rank.kv_bytes_per_block <= 0 || rank.weight_bytes < 0) {
      return absl::InternalError(absl::StrCat("rank ", rank.rank, " says that a KV block takes ",
                                              rank.kv_bytes_per_block, " bytes and its weights ", rank.weight_bytes));
    }
  }
  const plan::JoinReply::Rank* const tightest = Tightest(options, ranks);
  if (tightest == nullptr) return absl::InternalError("no rank has answered");
  int64_t blocks = RoomFor(options, *tightest);
  const std::string where = absl::StrCat("rank ", tightest->rank, " has ", Mib(tightest->memory_bytes),
                                         " MiB, of which weights take ", Mib(tightest->weight_bytes), " MiB; room for ",
                                         blocks, " KV blocks of ", limits.block_size, " tokens");
  if (options.kv_blocks > 0) {
    if (options.kv_blocks > blocks && demand == Demand::kExact) {
      return absl::ResourceExhaustedError(absl::StrCat(options.kv_blocks, " KV blocks were asked for, but ", where));
    }
    blocks = std::min<int64_t>(blocks, options.kv_blocks);
  } else {
    const int64_t each = plan::BlocksFor(limits.max_model_len, limits.block_size);
    blocks = std::min({blocks, each * limits.max_sequences, int64_t{plan::kMaxBlocks}});
  }
  const int64_t tokens = blocks * limits.block_size;
  if (tokens < 2) return absl::ResourceExhaustedError(absl::StrCat("no room for a KV cache: ", where));
  if (options.max_model_len > tokens && demand == Demand::kExact) {
    return absl::ResourceExhaustedError(absl::StrCat("max_model_len ", options.max_model_len,
                                                     " does not fit: the KV cache holds ", tokens, " tokens (", where,
                                                     ")"));
  }
  limits.blocks = static_cast<int32_t>(blocks);
  limits.max_model_len = static_cast<int32_t>(std::min<int64_t>(limits.max_model_len, tokens));
  SHOAL_RETURN_IF_ERROR(plan::CheckLimits(limits));
  return limits;
}

}  // namespace shoal::core
