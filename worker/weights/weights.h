// A rank's weights: one self-describing memory region, written once by the agent or its maker, mapped by the rank.
// Region: header, directory of tensors, then the packed tensors on 64-byte borders (kernels/ops/op_table.h packs them).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"
#include "common/model/tensor_table.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/op_table.h"

namespace shoal::weights {

// What the decoder multiplies with and adds. Null (data): the model has no such tensor, or this rank holds none. The
// bias of a matrix is in ops::Weight: of the rows that the rank holds; of `o` and `down`, whose sums over ranks it is
// added to, on tensor rank 0 alone.
struct NormWeights {
  const float* weight = nullptr;  // [hidden]
  const float* bias = nullptr;    // [hidden]
};
struct LayerWeights {
  NormWeights attn_norm, ffn_norm;                      // before the block: NormPlace::kBefore, kBeforeAndAfter
  NormWeights attn_post_norm, ffn_post_norm;            // behind it: kBeforeAndAfter, kAfter
  ops::Weight q, k, v;                                  // [local heads * head_dim, hidden]
  const float* q_norm = nullptr;                        // [head_dim]
  const float* k_norm = nullptr;                        // [head_dim]
  ops::Weight o;                                        // [hidden, local heads * head_dim]
  ops::Weight gate, up;                                 // [local ffn, hidden]; a layer without experts
  ops::Weight down;                                     // [hidden, local ffn]
  ops::Weight router;                                   // [experts, hidden]; a layer with experts
  ops::ExpertWeights expert_gate = {}, expert_up = {};  // [local expert ffn, hidden], of each expert
  ops::ExpertWeights expert_down = {};                  // [hidden, local expert ffn]
};
struct ModelWeights {
  ops::Weight embedding;              // [local vocab, hidden]; stage 0, as what follows
  ops::Weight positions;              // [max_position, hidden]
  const float* token_type = nullptr;  // [hidden]
  NormWeights embedding_norm;
  ops::Weight head;        // [local vocab, hidden]; last stage; the embedding itself when tied and on one stage
  NormWeights final_norm;  // last stage
  std::vector<LayerWeights> layers;  // of this rank, in order
};

// Where each tensor of the shard goes. compute_f32: every matrix is stored as f32 (reference runs). A matrix whose rows
// have scales is two items, its own and then that of the scales. Of one role's experts in a layer all matrices lie one
// behind the other, at equal distances, then all scales without a gap, as ops::ExpertWeights has them.
struct WeightLayout {
  enum class Part : uint8_t {
    kTensor,
    kRowScale,  // f32 [rows]; stored: one for all rows, or one for each row of the whole matrix
  };
  struct Item {
    model::TensorSpec spec;
    const model::TensorEntry* stored;
    plan::TensorSlice slice;  // of the stored tensor; kRowScale: the rows of the matrix, one column
    DType dtype;              // as packed
    Part part = Part::kTensor;
    int64_t offset = 0;  // in the region
    int64_t bytes = 0;   // packed
  };
  std::vector<Item> items;
  int64_t region_bytes = 0;
  int64_t read_bytes = 0;  // what loading will read from the checkpoint
};
absl::StatusOr<WeightLayout> MakeLayout(const model::ModelConfig& config, const model::Checkpoint& checkpoint,
                                        const plan::RankShard& shard, const ops::OpTable& table, bool compute_f32);

// Takes the bytes of a region that is being loaded: the region itself, or pieces of it on their way to a device.
class RegionWriter {
 public:
  virtual ~RegionWriter() = default;
  // Room for the region's bytes [offset, offset + bytes), no more than LargestPiece(): the caller fills it and hands it
  // to Put(). 64-byte aligned, undefined at first. Any thread; may wait.
  virtual absl::StatusOr<std::byte*> Room(int64_t offset, int64_t bytes) = 0;
  // What one thread puts is written in that order.
  virtual absl::Status Put(std::byte* room, int64_t offset, int64_t bytes) = 0;
  // Makes a matrix of dummy values at the region's `offset` by itself (`matrix` without data). False: it does not, and
  // gets it as any other.
  virtual absl::StatusOr<bool> MakeDummy(int64_t offset, const ops::DummyMatrixArgs& matrix) {
    static_cast<void>(offset), static_cast<void>(matrix);
    return false;
  }
};
int64_t LargestPiece(const WeightLayout& layout, const ops::OpTable& table);

// Reads, cuts and packs every item of the region with `threads` threads. `progress` counts bytes read (dummies that the
// writer makes, too) and may be watched from elsewhere; `cancelled` ends it early with Cancelled. All that was put is a
// region once this has returned OK, and not before.
absl::Status LoadShard(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
                       RegionWriter& writer, int threads, std::atomic<int64_t>* progress,
                       const std::atomic<bool>* cancelled);
// The same into host memory of at least region_bytes.
absl::Status LoadShard(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
                       std::span<std::byte> region, int threads, std::atomic<int64_t>* progress,
                       const std::atomic<bool>* cancelled);

// Reads the directory of a loaded region. DataLoss when it is not one, or not for this config and shard, or not packed
// by `table`.
absl::StatusOr<ModelWeights> Bind(std::span<const std::byte> region, const model::ModelConfig& config,
                                  const plan::RankShard& shard, const ops::OpTable& table);
// The same of memory that the host cannot read: `region` is only where it lies, `read` copies from there. Its errors
// are passed on.
using ReadMemory = std::function<absl::Status(void* to, const std::byte* from, size_t bytes)>;
absl::StatusOr<ModelWeights> Bind(std::span<const std::byte> region, const ReadMemory& read,
                                  const model::ModelConfig& config, const plan::RankShard& shard,
                                  const ops::OpTable& table);

}  // namespace shoal::weights
