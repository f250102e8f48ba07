// A model whose weights are random numbers on the device, and one rank that runs it: the decoder and the engine of the
// program with the transport of CUDA ranks, fed with plans that were made before. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/model/model_config.h"
#include "common/plan/plan_check.h"
#include "common/plan/shard_plan.h"
#include "tests/gpu/bench.h"
#include "worker/weights/weights.h"

namespace shoal::gpu {

// Every layer has weights of its own.
class BenchModel {
 public:
  BenchModel(Bench& bench, const Shape& shape);

  const Shape& shape() const { return shape_; }
  const model::ModelConfig& config() const { return config_; }
  const plan::RankShard& shard() const { return shard_; }
  const weights::ModelWeights& weights() const { return weights_; }
  // What a step reads of them, at least: all but the embedding.
  double bytes() const { return bytes_; }

 private:
  ops::Weight Matrix(Bench& bench, DType type, int n, int k);
  weights::LayerWeights Layer(Bench& bench);

  const Shape shape_;
  model::ModelConfig config_;
  plan::RankShard shard_;
  device::Memory ones_, scale_;  // of the norms, and of rows in fp8
  std::vector<device::Memory> memory_;
  weights::ModelWeights weights_;
  double bytes_ = 0;
};
model::ModelConfig ConfigOf(const Shape& shape);
// Of a layer, and of embedding and head.
double LayerBytes(const ops::OpTable& table, const Shape& shape);
double EndBytes(const ops::OpTable& table, const Shape& shape);

// What came of a run of plans. Times are seconds of the device's clock (DeviceEvents).
struct StepsRun {
  std::vector<std::vector<int32_t>> tokens;  // by plan, of its rows in turn
  std::vector<double> periods;               // from the end of one plan to the end of the next
  std::vector<double> graphs;                // of each plan's graph, where plans have one
  std::vector<double> between;  // from the end of one graph to the begin of the next: idle, or small copies
};

// Sequences of a fixed number, and plans for them.
class PlanMaker {
 public:
  explicit PlanMaker(const plan::MirrorLimits& limits, bool graphs);
  const plan::MirrorLimits& limits() const { return mirror_.limits(); }
  // `sequences` begin with `context` tokens, all but the last of which are in the cache, and decode `steps` tokens.
  void Decode(int sequences, int context, int steps);
  // A sequence of so many tokens, prefilled by one plan, in the place of the one before.
  void Prefill(int tokens);
  const std::vector<plan::StepPlan>& plans() const { return plans_; }

 private:
  plan::SequenceStart Start(int tokens, int room, int in_cache);
  void Add(plan::StepPlan plan);

  plan::PlanMirror mirror_;
  const bool graphs_;
  plan::SequenceId ids_ = 0;
  int32_t next_block_ = 0;
  std::vector<int32_t> order_;  // of blocks: those of a sequence are no neighbours
  std::vector<plan::StepPlan> plans_;
};

// Runs them with at most two unanswered, as a coordinator has them.
StepsRun RunPlans(Bench& bench, const BenchModel& model, const PlanMaker& plans);

}  // namespace shoal::gpu
