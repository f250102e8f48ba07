// Which rank holds which part of the model. A pure function of (config, tp, pp): every process computes the same plan,
// and JoinGroup carries only its arguments and its hash.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/model/tensor_table.h"

namespace shoal::plan {

// Half-open [begin, end).
struct Range {
  int32_t begin = 0, end = 0;
  int32_t size() const { return end - begin; }
  bool contains(int32_t x) const { return x >= begin && x < end; }
  bool operator==(const Range&) const = default;
};

// The part of one rank. Rank number = stage * tp + tensor index.
struct RankShard {
  int32_t rank = 0;
  int32_t tp_index = 0, stage = 0;
  Range layers;
  Range heads;                 // query heads
  Range kv_heads;              // every kv head that `heads` touch
  Range ffn;                   // on borders of 32; of layers without experts, empty when there are none
  Range expert_ffn;            // on borders of 32; of each expert, empty when there are none
  Range vocab;                 // rows of embedding and head, on borders of 32
  bool has_embedding = false;  // stage 0
  bool has_head = false;       // last stage: final norm and head
};

struct ShardPlan {
  int32_t tp = 1, pp = 1;
  std::vector<RankShard> ranks;  // [tp * pp]

  const RankShard& At(int32_t stage, int32_t tp_index) const { return ranks[stage * tp + tp_index]; }
  // The sampling rank: tensor index 0 of the last stage.
  int32_t sampling_rank() const { return (pp - 1) * tp; }
  uint64_t Hash() const;
};

// Uneven work is spread as evenly as whole heads and 32-blocks allow; layers by an even split where stages with the
// embedding or the head get fewer when that lowers the largest stage. InvalidArgument says the largest usable tp
// (query heads, 32-blocks of ffn and of expert ffn) and pp (layers).
absl::StatusOr<ShardPlan> MakeShardPlan(const model::ModelConfig& config, int32_t tp, int32_t pp);

// The slice of a stored tensor [rows, columns] that a rank holds; empty when it holds none. A vector is one row.
struct TensorSlice {
  Range rows;     // of the stored tensor
  Range columns;  // of the stored tensor; the whole width for row cuts
  bool empty() const { return rows.size() == 0 || columns.size() == 0; }
};
TensorSlice SliceOf(const model::ModelConfig& config, const RankShard& shard, const model::TensorSpec& spec);

// The bound that uneven work sets against one rank with the whole model: (work of the model / ranks) / (work of the
// largest rank), in (0, 1]; work is matmul weights read per token, of experts those of the ones that a token uses. KV
// heads and routers that several ranks hold count once above and for each of them below.
double BalanceBound(const model::ModelConfig& config, const ShardPlan& plan);

}  // namespace shoal::plan
