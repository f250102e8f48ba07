// Regions of every rank of a layout, and the whole weights put together again from them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/op_table.h"
#include "tests/testing/tiny_model.h"
#include "worker/weights/weights.h"

namespace shoal::weights {

// Zeroed memory on a 64-byte border.
class Region {
 public:
  explicit Region(int64_t bytes);
  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::vector<std::byte> memory_;
  std::byte* data_;
  size_t size_;
};

struct LoadedRank {
  plan::RankShard shard;
  WeightLayout layout;
  std::unique_ptr<Region> region;
  ModelWeights weights;
};

// All ranks of tp x pp, loaded one after the other. Fails the running test on any error.
std::vector<LoadedRank> LoadAll(const model::ModelConfig& config, const model::Checkpoint& checkpoint,
                                const ops::OpTable& table, int tp, int pp, bool compute_f32 = false, int threads = 2);

// Tensor name -> bytes of the whole tensor, from the pieces of all ranks as the op table "ref" packs them (row-major).
// Pieces that several ranks hold must agree: `conflicts` counts bytes that do not. Bytes that nobody holds stay 0xEE.
std::map<std::string, std::vector<std::byte>> Reassemble(const model::ModelConfig& config,
                                                         const std::vector<LoadedRank>& ranks, int* conflicts);

// A tiny model as a GGUF file that is open, though its directory is gone already.
model::ModelFiles OpenTiny(const testing::TinyModel& model);

// The default model under SHOAL_SOURCE_DIR/models; empty when it is missing.
std::string DefaultModelPath();

}  // namespace shoal::weights
