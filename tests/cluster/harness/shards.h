// A model cut for one layout and loaded into memory of the test, once for all transports.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"
#include "common/plan/shard_plan.h"
#include "tests/testing/tiny_model.h"
#include "worker/weights/weights.h"

namespace shoal::testing {

struct TestModel {
  model::ModelConfig config;
  std::shared_ptr<const model::Checkpoint> checkpoint;
};
// The default model, as `make model` puts it below models/.
absl::StatusOr<TestModel> OpenDefaultModel();
absl::StatusOr<TestModel> OpenTinyModel(const TinyModel& tiny);
// The same names, shapes and types, with generated values.
TestModel WithDummyWeights(const TestModel& like, uint64_t seed);

struct FreeMemory {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<std::byte, FreeMemory>;
// Aligned to 64 bytes; every byte is `fill`: 0xff makes floats of all types NaN, so that reading what nobody wrote
// shows.
Memory MakeMemory(size_t bytes, int fill);

struct Shards {
  TestModel model;
  plan::ShardPlan plan;
  const ops::OpTable* table = nullptr;
  std::vector<Memory> regions;                 // per rank
  std::vector<weights::ModelWeights> weights;  // per rank, views into `regions`
};
absl::StatusOr<std::shared_ptr<const Shards>> LoadShards(const TestModel& model, int tp, int pp,
                                                         const std::string& table, bool compute_f32);
absl::StatusOr<std::shared_ptr<const Shards>> LoadShards(const TestModel& model, int tp, int pp,
                                                         const ops::OpTable* table, bool compute_f32);

}  // namespace shoal::testing
