// Whole steps, through the decoder and the engine: decode at several batches with a context of 1k, recorded and not,
// which have to give the same tokens, and prefill of whole prompts. Beside what bounds them in the same run: of decode
// the bytes of weights and KV cache at the rate of a copy, of prefill the same products by cuBLASLt.
// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs it on small sizes)
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/bench_model.h"
#include "worker/graph/decoder.h"

namespace shoal::gpu {
namespace {

constexpr int kBlock = 16;
constexpr double kUsable = 0.92;  // of what is free: the rest is for graphs and what the driver takes

struct Sizes {
  std::vector<int> batches, prompts;
  int context, steps;
  int warm_up;  // of the steps
};
Sizes SizesFor(const Bench& b) {
  const bool fast = b.options().numerics == ops::Numerics::kFast, quick = b.options().quick;
  if (!b.large()) return {fast ? std::vector{70} : std::vector{1, 5}, {fast ? 70 : 20}, 40, 6, 2};
  Sizes sizes = {{1, 8, 32, 128}, {2048, 8192}, 1024, quick ? 40 : 110, 10};
  if (quick) sizes.batches = {1, 32};
  if (quick) sizes.prompts = {2048};
  if (fast) sizes.batches = {128};  // smaller ones are as in invariant
  return sizes;
}

plan::MirrorLimits LimitsOf(const Shape& s, int sequences, int tokens, int context) {
  return {.blocks = sequences * plan::BlocksFor(context, kBlock),
          .block_size = kBlock,
          .max_sequences = sequences,
          .max_tokens = tokens,
          .max_model_len = context,
          .vocab = s.vocab};
}
double KvBytes(const Shape& s) { return 2.0 * 2 * s.kv_dim() * s.layers; }  // of a token

// Layers that fit beside the cache and the working memory of the largest run. All of them where they can.
Shape Fitting(Bench& b, Shape s, const Sizes& sizes) {
  const double free = static_cast<double>(Must(b.accelerator().Memory(), "memory").free) * kUsable;
  const int sequences = *std::max_element(sizes.batches.begin(), sizes.batches.end());
  const int prompt = *std::max_element(sizes.prompts.begin(), sizes.prompts.end());
  const model::ModelConfig config = ConfigOf(s);
  const plan::RankShard shard = Must(plan::MakeShardPlan(config, 1, 1), "shards").ranks[0];
  const auto working = [&](int tokens, int samples, int context) {
    return static_cast<double>(
        graph::DecoderBytes(config, shard, 1, {tokens, samples, context}, b.table(), b.stream().threads()));
  };
  const int context = sizes.context + sizes.steps;
  const double most = std::max(working(sequences, sequences, context), working(prompt, 1, prompt + 1));
  const double kv = std::max(sequences * context, prompt) * KvBytes(s) / s.layers;
  const double room = free - EndBytes(b.table(), s) - most;
  s.layers = std::clamp(static_cast<int>(room / (LayerBytes(b.table(), s) + kv)), 1, s.layers);
  return s;
}

double Percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

// Without those of the first plans.
std::vector<double> Behind(const std::vector<double>& values, int warm_up) {
  return {values.begin() + std::min<std::ptrdiff_t>(warm_up, static_cast<std::ptrdiff_t>(values.size())), values.end()};
}
double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// `whole`: the model's, where not all its layers are there.
void MeasureDecode(Bench& b, const BenchModel& model, const Sizes& sizes, int batch, int whole) {
  const Shape& s = model.shape();
  const plan::MirrorLimits limits = LimitsOf(s, batch, batch, sizes.context + sizes.steps);
  std::vector<std::vector<int32_t>> tokens;
  for (const bool graphs : {true, false}) {
    PlanMaker plans(limits, graphs);
    plans.Decode(batch, sizes.context, sizes.steps);
    StepsRun run = RunPlans(b, model, plans);
    std::set<int32_t> different;
    for (const auto& step : run.tokens) different.insert(step.begin(), step.end());
    if (different.size() < 2) Must(absl::InternalError("every token is the same"), "decode");
    if (!graphs && run.tokens != tokens) Must(absl::InternalError("graphs and single ops differ"), "decode");
    tokens = std::move(run.tokens);
    const std::string name = absl::StrCat(s.name, " decode ", batch, graphs ? "" : " eager");
    const double period = Mean(Behind(run.periods, sizes.warm_up));
    const double read = model.bytes() + batch * KvBytes(s) * (sizes.context + sizes.steps / 2.0);
    b.Figure(name, batch / period * s.layers / whole, "tokens/s");
    b.Figure(name, period * 1e3, "ms");
    b.Figure(name, read / period / b.CopyRate(), "of-limit");
    if (!graphs) continue;
    b.Figure(name + " graph", Mean(Behind(run.graphs, sizes.warm_up)) * 1e3, "ms");
    const std::vector<double> between = Behind(run.between, sizes.warm_up);
    b.Figure(name + " between graphs p50", Percentile(between, 0.5) * 1e6, "us");
    b.Figure(name + " between graphs p99", Percentile(between, 0.99) * 1e6, "us");
  }
}

// All products of the layers by cuBLASLt. 0: it has none.
double ProductSeconds(Bench& b, const Shape& s, DType type, int tokens) {
  double seconds = 0;
  for (const auto& [n, k] : {std::pair{s.q_dim() + 2 * s.kv_dim(), s.hidden},
                             {s.hidden, s.q_dim()},
                             {2 * s.ffn, s.hidden},
                             {s.hidden, s.ffn}}) {
    const double one = b.LibrarySeconds(type, tokens, n, k);
    if (one == 0) return 0;
    seconds += one * s.layers;
  }
  return seconds;
}

void MeasurePrefill(Bench& b, const BenchModel& model, int tokens, int whole) {
  constexpr int kAgain = 3;
  const Shape& s = model.shape();
  PlanMaker plans(LimitsOf(s, 1, tokens, tokens + 1), false);  // and the one that is sampled
  for (int i = 0; i <= kAgain; ++i) plans.Prefill(tokens);
  const StepsRun run = RunPlans(b, model, plans);
  const double seconds = Percentile(run.periods, 0.5);
  const std::string name = absl::StrCat(s.name, " prefill ", tokens);
  const double weights = LayerBytes(b.table(), s) / Info(s.type).block_bytes;
  b.Figure(name, tokens / seconds * s.layers / whole, "tokens/s");
  b.Figure(name, seconds * 1e3, "ms");
  b.Figure(name, 2.0 * tokens * weights * s.layers / seconds / 1e12, "TFLOP/s");
  const double bf16 = ProductSeconds(b, s, DType::kBF16, tokens);
  if (bf16 > 0) b.Figure(name, bf16 / seconds, "of-cublaslt");
  if (s.type != DType::kF8E4M3) return;
  const double fp8 = ProductSeconds(b, s, DType::kF8E4M3, tokens);
  if (fp8 > 0) b.Figure(name, fp8 / seconds, "of-cublaslt-fp8");
}

}  // namespace

void MeasureSteps(Bench& b) {
  const Sizes sizes = SizesFor(b);
  for (const Shape& all : b.Shapes()) {
    Shape shape = Fitting(b, all, sizes);
    if (shape.layers < all.layers) {
      std::printf(
          "%s: %d of %d layers fit. Their times and fractions are measured; tokens/s are those of all layers, "
          "each taken for as long as these\n",
          all.name.c_str(), shape.layers, all.layers);
      absl::StrAppend(&shape.name, " (", shape.layers, " of ", all.layers, " layers)");
    }
    if (b.options().numerics == ops::Numerics::kFast) shape.name += " fast";
    const BenchModel model(b, shape);
    for (const int batch : sizes.batches) MeasureDecode(b, model, sizes, batch, all.layers);
    for (const int tokens : sizes.prompts) MeasurePrefill(b, model, tokens, all.layers);
  }
}

}  // namespace shoal::gpu
