// The plan of kernels/ops/attention.h: both lists of a batch (attention_work.h), its header, and where their parts lie.
// Places follow from the shape alone, so that a captured graph finds other batches' plans at the same addresses.
//   heads_begin [kv_heads + 1]; of each list join_count, first [workers + 1], items, joins
// Sequences of few tokens are the narrow list's, the others the wide one's.
#pragma once

#include <cstddef>

#include "kernels/cuda/attention.h"
#include "kernels/ops/attention.h"

namespace shoal::cuda {

struct AttentionPlanLayout {
  struct List {
    AttentionTiling tiling;                  // workers 0: no batch of the shape has a use for the list
    size_t join_count, first, items, joins;  // bytes from the plan's beginning
    int64_t partials;                        // floats from the workspace's beginning
  };
  List narrow, wide;
  int64_t bytes;  // a multiple of 16
};
// Allocates nothing, as the next: it is asked for each launch.
AttentionPlanLayout LayoutOf(const ops::AttentionPlanShape& shape);
// Writes a plan to `plan` (host memory). The batch is within the shape. Sequences' tables are not read.
void MakeAttentionPlan(const ops::AttentionPlanShape& shape, const ops::AttentionSequence* sequences,
                       int sequence_count, void* plan);
// op.heads_begin, narrow, narrow_rows and wide, for a plan and a workspace in device memory.
void TakeAttentionPlan(const ops::AttentionPlanShape& shape, const void* plan, float* workspace, Attention* op);

// ops::AttentionWorkspaceFn: of any layout of a shape with at most so many tokens and so long contexts.
int64_t AttentionWorkspace(int threads, int tokens, int q_heads, int head_dim, int max_context);

}  // namespace shoal::cuda
