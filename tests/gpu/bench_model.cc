// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs the timings on small sizes)
#include "tests/gpu/bench_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/base/rng.h"
#include "tests/gpu/device_events.h"
#include "worker/comm/nccl.h"
#include "worker/comm/nccl_plugin.h"
#include "worker/device/cuda_plugin.h"
#include "worker/kv/kv_cache.h"
#include "worker/rank/engine.h"

namespace shoal::gpu {
namespace {

constexpr int kAhead = 2;  // unanswered plans of a sequence

// Events behind each plan, and before and behind each graph.
struct PlanEvents {
  absl::Status Note(std::vector<int>* events) {
    events->push_back(clock->count());
    return clock->Record();
  }
  std::unique_ptr<DeviceEvents> clock;
  std::vector<int> ends, graph_begins, graph_ends;
};

// A device that notes them: StepRunner makes a mark behind each plan, and none else.
class ClockedDevice final : public device::Device {
 public:
  ClockedDevice(device::Device* device, PlanEvents* events) : device_(*device), events_(*events) {}
  const ops::OpTable& table() const override { return device_.table(); }
  ops::Stream& stream() override { return device_.stream(); }
  absl::StatusOr<device::Memory> Allocate(size_t bytes) override { return device_.Allocate(bytes); }
  absl::StatusOr<device::Memory> AllocateHost(size_t bytes) override { return device_.AllocateHost(bytes); }
  bool is_host() const override { return device_.is_host(); }
  absl::Status Upload(void* to, const void* from, size_t bytes) override { return device_.Upload(to, from, bytes); }
  absl::Status Download(void* to, const void* from, size_t bytes) override { return device_.Download(to, from, bytes); }
  absl::Status Fetch(void* to, const void* from, size_t bytes) override { return device_.Fetch(to, from, bytes); }
  absl::StatusOr<uint64_t> Mark() override {
    Must(events_.Note(&events_.ends), "the device's clock");
    return device_.Mark();
  }
  absl::StatusOr<bool> Reached(uint64_t mark) override { return device_.Reached(mark); }
  absl::Status Milestone() override { return device_.Milestone(); }
  absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> Record(const std::function<absl::Status()>& enqueue) override {
    return device_.Record(enqueue);
  }
  absl::Status ProvokeFault() override { return device_.ProvokeFault(); }
  absl::Status Launch(ops::AcceleratorGraph& graph) override {
    Must(events_.Note(&events_.graph_begins), "the device's clock");
    const absl::Status launched = device_.Launch(graph);
    Must(events_.Note(&events_.graph_ends), "the device's clock");
    return launched;
  }

 private:
  device::Device& device_;
  PlanEvents& events_;
};

// Plans that are all there, given out as a coordinator would send them.
class Plans final : public rank::PlanSource {
 public:
  explicit Plans(const std::vector<plan::StepPlan>& plans) : plans_(plans) {}
  absl::Status Next(plan::StepPlan* plan, TimeNs* arrived) override {
    if (next_ == plans_.size()) return absl::CancelledError("all plans are done");
    *plan = plans_[next_++];
    *arrived = 0;
    return absl::OkStatus();
  }
  bool HasNext() const override { return next_ < plans_.size() && next_ - answered_ < kAhead; }
  void Answered() { ++answered_; }

 private:
  const std::vector<plan::StepPlan>& plans_;
  size_t next_ = 0, answered_ = 0;
};

// Channels of a group of one rank on CUDA, whose data stay on the device.
comm::RankComm OpenChannels(Bench& bench, const plan::MirrorLimits& limits, rank::ControlPage* page) {
  comm::NcclApi* const api = Must(comm::NcclOfPlugin(device::CudaPluginPath()), "NCCL");
  const auto rendezvous = Must(comm::NcclRendezvous::Open({.api = api,
                                                           .accelerator = &bench.accelerator(),
                                                           .shape = {.max_samples = limits.max_sequences},
                                                           .rank = 0,
                                                           .generation = 1,
                                                           .abort = &page->abort,
                                                           .note = &page->waiting}),
                               "NCCL");
  const std::string address = rendezvous->address();
  return Must(rendezvous->Connect({&address, 1}, 30 * kSecond), "channels");
}

void ReadClock(const PlanEvents& events, StepsRun* run) {
  const auto between = [&](int from, int to) { return Must(events.clock->Between(from, to), "the device's clock"); };
  for (size_t i = 1; i < events.ends.size(); ++i) run->periods.push_back(between(events.ends[i - 1], events.ends[i]));
  for (size_t i = 0; i < events.graph_ends.size(); ++i) {
    run->graphs.push_back(between(events.graph_begins[i], events.graph_ends[i]));
    if (i > 0) run->between.push_back(between(events.graph_ends[i - 1], events.graph_begins[i]));
  }
}

}  // namespace

model::ModelConfig ConfigOf(const Shape& s) {
  return {.architecture = s.name,
          .layers = s.layers,
          .hidden = s.hidden,
          .heads = s.q_heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .ffn = s.ffn,
          .vocab = s.vocab,
          .max_position = 1 << 17,
          .attention_scale = 1 / std::sqrt(static_cast<float>(s.head_dim)),
          .rope = {.theta = 5e5, .dim = s.head_dim},
          .eos_tokens = {}};
}

double LayerBytes(const ops::OpTable& table, const Shape& s) {
  const auto matrix = [&](int n, int k) { return static_cast<double>(table.packed_bytes(s.type, n, k)); };
  return matrix(s.q_dim(), s.hidden) + 2 * matrix(s.kv_dim(), s.hidden) + matrix(s.hidden, s.q_dim()) +
         2 * matrix(s.ffn, s.hidden) + matrix(s.hidden, s.ffn);
}
double EndBytes(const ops::OpTable& table, const Shape& s) {
  return 2 * static_cast<double>(table.packed_bytes(DType::kBF16, s.vocab, s.hidden));
}

BenchModel::BenchModel(Bench& bench, const Shape& shape)
    : shape_(shape),
      config_(ConfigOf(shape)),
      shard_(Must(plan::MakeShardPlan(config_, 1, 1), "shards").ranks[0]),
      ones_(bench.Upload(std::vector<float>(static_cast<size_t>(shape.hidden), 1.0f))),
      // So that products are about as large as x.
      scale_(bench.Upload(std::vector<float>(static_cast<size_t>(std::max(shape.ffn, shape.hidden)),
                                             0.5f / std::sqrt(static_cast<float>(shape.hidden))))) {
  for (int i = 0; i < shape.layers; ++i) weights_.layers.push_back(Layer(bench));
  weights_.head = Matrix(bench, DType::kBF16, shape.vocab, shape.hidden);
  bytes_ = shape.layers * LayerBytes(bench.table(), shape) + EndBytes(bench.table(), shape) / 2;
  weights_.embedding = Matrix(bench, DType::kBF16, shape.vocab, shape.hidden);
  weights_.final_norm.weight = ones_.as<float>();
}

ops::Weight BenchModel::Matrix(Bench& bench, DType type, int n, int k) {
  memory_.push_back(bench.Random(bench.table().packed_bytes(type, n, k), type));
  return {memory_.back().data(), type, n, k, IsByte(type) ? scale_.as<float>() : nullptr};
}

weights::LayerWeights BenchModel::Layer(Bench& bench) {
  const Shape& s = shape_;
  weights::LayerWeights layer;
  layer.attn_norm.weight = layer.ffn_norm.weight = ones_.as<float>();
  layer.q = Matrix(bench, s.type, s.q_dim(), s.hidden);
  layer.k = Matrix(bench, s.type, s.kv_dim(), s.hidden);
  layer.v = Matrix(bench, s.type, s.kv_dim(), s.hidden);
  layer.o = Matrix(bench, s.type, s.hidden, s.q_dim());
  layer.gate = Matrix(bench, s.type, s.ffn, s.hidden);
  layer.up = Matrix(bench, s.type, s.ffn, s.hidden);
  layer.down = Matrix(bench, s.type, s.hidden, s.ffn);
  return layer;
}

PlanMaker::PlanMaker(const plan::MirrorLimits& limits, bool graphs)
    : mirror_(limits), graphs_(graphs), order_(static_cast<size_t>(limits.blocks)) {
  std::iota(order_.begin(), order_.end(), 0);
  for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[RandomBits(17, 0, i) % (i + 1)]);
}

plan::SequenceStart PlanMaker::Start(int tokens, int room, int in_cache) {
  plan::SequenceStart start;
  start.id = ++ids_;
  for (int i = 0; i < tokens; ++i) {
    start.tokens.push_back(static_cast<int32_t>(RandomBits(start.id, 1, static_cast<uint64_t>(i)) %
                                                static_cast<uint64_t>(limits().vocab)));
  }
  start.prompt_tokens = tokens;
  start.kv_tokens = in_cache;
  const int32_t end = next_block_ + plan::BlocksFor(room, limits().block_size);
  start.blocks.assign(order_.begin() + next_block_, order_.begin() + end);
  next_block_ = end;
  return start;
}

void PlanMaker::Add(plan::StepPlan plan) {
  plan.stamp = {.epoch = 1, .incarnation = 1, .step = plans_.size() + 1};
  if (graphs_) plan.bucket = plan::BucketOf(plan, limits());
  Must(mirror_.Apply(plan, false), "a plan");
  plan.mirror_digest = mirror_.digest();
  plans_.push_back(std::move(plan));
}

void PlanMaker::Decode(int sequences, int context, int steps) {
  for (int step = 0; step < steps; ++step) {
    plan::StepPlan plan;
    for (int i = 0; i < sequences; ++i) {
      if (step == 0) plan.starts.push_back(Start(context, context + steps, context - 1));
      const auto id = static_cast<plan::SequenceId>(i + 1);
      plan.rows.push_back({.id = id,
                           .source = step == 0 ? plan::TokenSource::kLiteral : plan::TokenSource::kLastSample,
                           .position = context - 1 + step,
                           .count = 1,
                           .output = plan::RowOutput::kSample});
    }
    Add(std::move(plan));
  }
}

void PlanMaker::Prefill(int tokens) {
  plan::StepPlan plan;
  if (ids_ > 0) plan.ends.push_back(ids_);
  next_block_ = 0;
  plan.starts.push_back(Start(tokens, tokens, 0));
  plan.rows.push_back({.id = ids_,
                       .source = plan::TokenSource::kLiteral,
                       .position = 0,
                       .count = tokens,
                       .output = plan::RowOutput::kSample});
  Add(std::move(plan));
}

StepsRun RunPlans(Bench& bench, const BenchModel& model, const PlanMaker& plans) {
  const plan::MirrorLimits& limits = plans.limits();
  PlanEvents events;
  events.clock = bench.large() ? Must(DeviceEvents::Open(bench.accelerator().native_stream()), "the device's clock")
                               : DeviceEvents::OfHost();
  ClockedDevice device(&bench.device(), &events);
  Plans source(plans.plans());
  const kv::KvShape shape =
      kv::MakeKvShape(model.shard(), model.config(), DType::kBF16, limits.block_size, limits.blocks);
  const device::Memory cache =
      bench.Random(static_cast<size_t>(kv::RegionBytes(shape)), DType::kBF16, /*seed=*/1);  // the same for all runs
  rank::ControlPage page;
  comm::RankComm comm = OpenChannels(bench, limits, &page);
  graph::OperationLog operations(&page.operation, &device.stream());
  const RealClock clock;
  StepsRun run;
  rank::EngineParts parts;
  parts.shard = model.shard();
  parts.limits = limits;
  parts.device = &device;
  parts.kv = kv::MakeLayers(shape, {cache.data(), cache.size()});
  const graph::DecoderOptions options = {limits.max_tokens, limits.max_sequences, limits.max_model_len};
  parts.decoder = Must(graph::Decoder::Create(model.config(), model.shard(), options, &device, &model.weights(),
                                              parts.kv, comm.tensor.get(), &operations),
                       "decoder");
  parts.comm = &comm;
  parts.plans = &source;
  parts.on_result = [&](const plan::StepResult& result) -> absl::Status {
    source.Answered();
    if (!result.error.empty()) return absl::InternalError(result.error);
    std::vector<int32_t>& tokens = run.tokens.emplace_back();
    for (const plan::RowResult& row : result.rows) {
      if (row.error != plan::RowError::kNone) return absl::InternalError("logits that are no numbers");
      tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
    }
    return absl::OkStatus();
  };
  parts.operations = &operations;
  parts.page = &page;
  parts.clock = &clock;
  Must(rank::RunEngine(std::move(parts)), "the engine");
  if (run.tokens.size() != plans.plans().size()) Must(absl::InternalError("plans without an answer"), "the engine");
  ReadClock(events, &run);
  bench.Count();
  return run;
}

}  // namespace shoal::gpu
