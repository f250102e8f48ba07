// What a backend offers: plain function pointers, checked once when a model is loaded. No op is null, but for those
// that say so.
#pragma once

#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/ops/all_reduce.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/checksum.h"
#include "kernels/ops/copy_blocks.h"
#include "kernels/ops/dummy_matrix.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/gather_ids.h"
#include "kernels/ops/gather_rows.h"
#include "kernels/ops/glu.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/place_columns.h"
#include "kernels/ops/pool.h"
#include "kernels/ops/quantise.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope_kv.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/soft_cap.h"
#include "kernels/ops/sum_ranks.h"
#include "kernels/ops/token_counts.h"

namespace shoal::ops {

// What the ops of a decoder on one rank are called with, where a backend may have limits.
struct OpSizes {
  int64_t hidden, q_dim, ffn;  // columns of weights; 0: there are none
  int head_dim, rot_dim;
  bool interleaved;  // rope_kv's
  int64_t vocab;     // logits of a row that is sampled; 0: none is
  DType kv_type;
  int block_size;
  int experts = 0, experts_used = 0;  // of a layer, and of a token; 0: there are none
  int64_t expert_ffn = 0;             // columns of an expert's weights on the way back
};

struct OpTable {
  std::string_view name;  // "ref", "cpu-avx2", "cpu-scalar", "null": part of numerics_id
  DType acts;             // element type of activations between ops (acts.h): kF32 or kBF16

  // Weights. `supports` answers for matmul, embed and packing alike. A matrix is packed in groups of `row_group` rows:
  // pack_rows writes rows [row_begin, row_begin + rows) of a packed [n, k] matrix at `dst` (its start), from canonical
  // contiguous rows at `src`. row_begin is a multiple of row_group, and so is `rows` unless it ends the matrix. Calls
  // for different rows of one matrix may run at the same time.
  bool (*supports)(DType);
  bool (*quantises)(DType);  // whether matmul with such weights takes quantised activations
  int row_group;
  size_t (*packed_bytes)(DType, int64_t n, int64_t k);
  void (*pack_rows)(DType, const void* src, int64_t row_begin, int64_t rows, int64_t n, int64_t k, void* dst);

  // Whether an op's first call with sizes that are new may do what no recording of a graph allows, and does less in
  // one: a step is then enqueued once before it is recorded.
  bool warms_up = false;

  // InvalidArgument: sizes that some op does not serve, with all of them told; asked when a model is loaded, so that no
  // step fails. Null: there are no limits of that kind.
  absl::Status (*check_sizes)(const OpSizes&);

  GatherIdsFn gather_ids;
  ScatterIdsFn scatter_ids;
  EmbedFn embed;
  GatherRowsFn gather_rows;
  RmsNormFn rms_norm;
  LayerNormFn layer_norm;
  QuantiseFn quantise;  // null: no weights take quantised activations
  MatmulFn matmul;
  RopeKvFn rope_kv;
  AttentionFn attention;
  AttentionWorkspaceFn attention_workspace;
  AttentionPlanBytesFn attention_plan_bytes;  // both null: no plan
  AttentionPlanFn attention_plan;
  GluFn glu;
  RouteFn route;
  ExpertMatmulFn expert_matmul;
  JoinExpertsFn join_experts;
  SoftCapFn soft_cap;
  PoolFn pool;
  SampleFn sample;
  ClearCountsFn clear_counts;
  CountTokensFn count_tokens;
  CopyBlocksFn copy_blocks;
  ChecksumFn checksum;
  SumRanksFn sum_ranks;
  AllReduceFn all_reduce = nullptr;  // null: no memory that several ranks' ops reach
  PlaceColumnsFn place_columns;
  DummyMatrixFn dummy_matrix;  // of the types that are supported
};

}  // namespace shoal::ops
