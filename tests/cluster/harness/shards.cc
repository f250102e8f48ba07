#include "tests/cluster/harness/shards.h"

#include <cstring>
#include <utility>

#include "common/base/status_macros.h"
#include "common/model/quantise.h"
#include "kernels/ops/backends.h"
#include "tests/testing/temp_dir.h"

namespace shoal::testing {

absl::StatusOr<TestModel> OpenDefaultModel() {
  SHOAL_ASSIGN_OR_RETURN(model::ModelFiles files, model::OpenModel("models/SmolLM2-135M-Instruct-Q4_1.gguf"));
  return TestModel{files.config, files.checkpoint};
}

absl::StatusOr<TestModel> OpenTinyModel(const TinyModel& asked) {
  const TinyModel tiny = BeforeInt4(asked);
  const TempDir directory;
  const bool bytes = IsByte(tiny.matrices) || IsByte(tiny.embedding);
  const std::string path = directory.path() + (bytes ? "/tiny" : "/tiny.gguf");
  bytes ? WriteTinyDirectory(tiny, path) : WriteTinyGguf(tiny, path);
  SHOAL_ASSIGN_OR_RETURN(model::ModelFiles files, model::OpenModel(path));
  if (asked.matrices == DType::kI4) {
    files.checkpoint = model::QuantiseAtLoad(files.checkpoint, files.config, DType::kI4);
  }
  return TestModel{files.config, files.checkpoint};
}

TestModel WithDummyWeights(const TestModel& like, uint64_t seed) {
  return {like.config, model::MakeDummyCheckpoint(like.checkpoint, seed)};
}

Memory MakeMemory(size_t bytes, int fill) {
  const size_t rounded = (bytes + 127) / 64 * 64;
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
  std::memset(memory.get(), fill, rounded);
  return memory;
}

absl::StatusOr<std::shared_ptr<const Shards>> LoadShards(const TestModel& model, int tp, int pp,
                                                         const std::string& table, bool compute_f32) {
  SHOAL_ASSIGN_OR_RETURN(const ops::OpTable* const found, ops::FindOpTable(table));
  return LoadShards(model, tp, pp, found, compute_f32);
}

absl::StatusOr<std::shared_ptr<const Shards>> LoadShards(const TestModel& model, int tp, int pp,
                                                         const ops::OpTable* table, bool compute_f32) {
  auto shards = std::make_shared<Shards>();
  shards->model = model;
  shards->table = table;
  SHOAL_ASSIGN_OR_RETURN(shards->plan, plan::MakeShardPlan(model.config, tp, pp));
  for (const plan::RankShard& shard : shards->plan.ranks) {
    SHOAL_ASSIGN_OR_RETURN(const weights::WeightLayout layout,
                           weights::MakeLayout(model.config, *model.checkpoint, shard, *shards->table, compute_f32));
    Memory region = MakeMemory(layout.region_bytes, 0);
    const std::span<std::byte> bytes(region.get(), layout.region_bytes);
    SHOAL_RETURN_IF_ERROR(weights::LoadShard(*model.checkpoint, layout, *shards->table, bytes, 2, nullptr, nullptr));
    SHOAL_ASSIGN_OR_RETURN(weights::ModelWeights bound, weights::Bind(bytes, model.config, shard, *shards->table));
    shards->regions.push_back(std::move(region));
    shards->weights.push_back(std::move(bound));
  }
  return shards;
}

}  // namespace shoal::testing
