// Each op by itself: layers of the models' shapes, at batches that decode and at chunks that are prefilled, in GB/s
// beside a copy on the same device in the same run, or in TFLOP/s; products also beside those of cuBLASLt of the same
// shape in the same run. An op is launched many times from a graph, on weights in turn that together exceed the caches.
// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs it on small sizes)
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/rng.h"
#include "tests/gpu/bench.h"

namespace shoal::gpu {
namespace {

struct Sizes {
  std::vector<int> batches, chunks;
  int context;  // of each sequence that decodes
};
Sizes SizesFor(const Bench& b) {
  if (!b.large()) return {{1, 8}, {20}, 50};
  if (b.options().quick) return {{1, 32}, {2048}, 2048};
  return {{1, 8, 32, 128}, {2048, 8192}, 2048};
}

std::string Name(const Shape& s, const std::string& op, int tokens) {
  return s.name + " " + op + " " + std::to_string(tokens);
}

// What the op must do at least. Operations count where there are many for each byte.
struct Work {
  double bytes, operations = 0;
};
// enqueue(i): the op on the i-th set of weights. Its seconds.
double Measure(Bench& b, const std::string& name, const Work& work, const std::function<absl::Status(int)>& enqueue) {
  const double seconds = b.SecondsOf(enqueue, 16);
  b.Count();
  b.Figure(name, seconds * 1e6, "us");
  if (work.operations / work.bytes > 300) {
    b.Figure(name, work.operations / seconds / 1e12, "TFLOP/s");
  } else {
    b.Figure(name, work.bytes / seconds / 1e9, "GB/s");
    b.Figure(name, work.bytes / seconds / b.CopyRate(), "of-a-copy");
  }
  return seconds;
}

// The product of x with all rows, as cuBLASLt has it: in bf16, and in fp8, activations too, where weights are.
void MeasureBeside(Bench& b, const std::string& name, DType type, int tokens, int n, int k, double seconds) {
  std::vector<std::pair<DType, const char*>> kinds = {{DType::kBF16, "of-cublaslt"}};
  if (type == DType::kF8E4M3) kinds.emplace_back(DType::kF8E4M3, "of-cublaslt-fp8");
  for (const auto& [kind, unit] : kinds) {
    const double library = b.LibrarySeconds(kind, tokens, n, k);
    if (library > 0) b.Figure(name, library / seconds, unit);
  }
}

// Products of one x with weights of n rows each.
void MeasureMatmul(Bench& b, const Shape& s, const std::string& op, DType type, std::vector<int> rows, int k,
                   int tokens, bool f32_out = false) {
  std::vector<size_t> begin;
  size_t set = 0;
  for (const int r : rows) {
    begin.push_back(set);
    set += (b.table().packed_bytes(type, r, k) + 255) / 256 * 256;
  }
  const int n = std::accumulate(rows.begin(), rows.end(), 0), sets = SetsOf(b, set);
  const device::Memory weights = b.Random(set * static_cast<size_t>(sets), type);
  const device::Memory x = b.Random(2 * static_cast<size_t>(tokens) * static_cast<size_t>(k));
  const size_t width = f32_out ? 4 : 2;
  const device::Memory y = b.Random(width * static_cast<size_t>(tokens) * static_cast<size_t>(n));
  const bool scaled = IsByte(type);
  const device::Memory scale =
      b.Upload(std::vector<float>(static_cast<size_t>(*std::max_element(rows.begin(), rows.end())), 0.01f));
  const double bytes = static_cast<double>(set) + tokens * (2.0 * k + static_cast<double>(width) * n);
  const double seconds = Measure(b, Name(s, op, tokens), {bytes, 2.0 * tokens * n * k}, [&](int i) {
    ops::MatmulArgs args = {.x = ActsOf(x),
                            .xq = nullptr,
                            .parts = {},
                            .part_count = static_cast<int>(rows.size()),
                            .tokens = tokens,
                            .k = k,
                            .f32_out = f32_out};
    size_t at = 0;
    for (size_t p = 0; p < rows.size(); ++p) {
      const std::byte* w = weights.data() + static_cast<size_t>(i % sets) * set + begin[p];
      args.parts[p] = {{w, type, rows[p], k, scaled ? scale.as<float>() : nullptr},
                       ops::Acts(static_cast<void*>(y.data() + at)),
                       rows[p]};
      at += width * static_cast<size_t>(tokens) * static_cast<size_t>(rows[p]);
    }
    return b.table().matmul(b.stream(), args);
  });
  MeasureBeside(b, Name(s, op, tokens), type, tokens, n, k, seconds);
}

void MeasureRows(Bench& b, const Shape& s, int tokens) {
  const auto count = static_cast<size_t>(tokens);
  const device::Memory x = b.Random(2 * count * static_cast<size_t>(s.hidden)), add = b.Random(x.size()),
                       y = b.Random(x.size());
  const device::Memory w = b.Upload(std::vector<float>(static_cast<size_t>(s.hidden), 1.0f));
  Measure(b, Name(s, "rms_norm with join", tokens), {10.0 * tokens * s.hidden}, [&](int) {
    return b.table().rms_norm(b.stream(), {.x = ActsOf(x),
                                           .add = ActsOf(add),
                                           .w = w.as<float>(),
                                           .y = ActsOf(y),
                                           .tokens = tokens,
                                           .dim = s.hidden,
                                           .eps = 1e-5f,
                                           .weight_bias = 0});
  });
  const device::Memory gate = b.Random(2 * count * static_cast<size_t>(s.ffn)), up = b.Random(gate.size());
  Measure(b, Name(s, "glu", tokens), {6.0 * tokens * s.ffn}, [&](int) {
    return b.table().glu(b.stream(), {.gate = ActsOf(gate),
                                      .up = ActsOf(up),
                                      .y = ActsOf(gate),
                                      .tokens = tokens,
                                      .dim = s.ffn,
                                      .activation = ops::Activation::kSilu});
  });
}

// `sequences` that each have `rows` new tokens up to `context`; their blocks lie in no order.
void MeasureAttention(Bench& b, const Shape& s, int sequences, int rows, int context) {
  constexpr int kBlock = 16;
  const int tokens = sequences * rows, blocks_each = (context + kBlock - 1) / kBlock, blocks = sequences * blocks_each;
  std::vector<int32_t> tables(static_cast<size_t>(blocks)), q_to_kv;
  for (int i = 0; i < blocks; ++i) tables[static_cast<size_t>(i)] = i;
  for (size_t i = tables.size() - 1; i > 0; --i) std::swap(tables[i], tables[RandomBits(3, 3, i) % (i + 1)]);
  for (int h = 0; h < s.q_heads; ++h) q_to_kv.push_back(h / (s.q_heads / s.kv_heads));
  const ops::AttentionPlanShape shape = {.threads = b.stream().threads(),
                                         .max_tokens = tokens,
                                         .max_sequences = sequences,
                                         .max_context = context,
                                         .q_to_kv = q_to_kv.data(),
                                         .q_heads = s.q_heads,
                                         .kv_heads = s.kv_heads,
                                         .head_dim = s.head_dim,
                                         .max_rows = rows == 1 ? 1 : 0};
  const device::Memory device_tables = b.Upload(tables), device_heads = b.Upload(q_to_kv);
  std::vector<ops::AttentionSequence> list;
  for (int i = 0; i < sequences; ++i) {
    list.push_back({device_tables.as<int32_t>() + i * blocks_each, i * rows, rows, context - rows});
  }
  std::vector<uint8_t> plan(static_cast<size_t>(b.table().attention_plan_bytes(shape)));
  b.table().attention_plan(shape, list.data(), sequences, plan.data());
  const device::Memory device_plan = b.Upload(plan), device_list = b.Upload(list);
  const device::Memory workspace = b.Random(
      4 * static_cast<size_t>(b.table().attention_workspace(shape.threads, tokens, s.q_heads, s.head_dim, context)));
  const size_t cache = 2 * static_cast<size_t>(blocks) * kBlock * static_cast<size_t>(s.kv_dim());
  const int sets = SetsOf(b, 2 * cache);  // as layers have caches of their own
  const device::Memory keys = b.Random(cache * static_cast<size_t>(sets)), values = b.Random(keys.size());
  const device::Memory q = b.Random(2 * static_cast<size_t>(tokens) * static_cast<size_t>(s.q_dim()));
  const device::Memory out = b.Random(q.size());
  const double seen = rows * (context - rows) + rows * (rows + 1) / 2.0;  // keys of all rows of a sequence
  Measure(b, Name(s, rows == 1 ? "attention decode" : "attention prefill", tokens),
          {4.0 * sequences * context * s.kv_dim() + 4.0 * tokens * s.q_dim(), 4.0 * sequences * seen * s.q_dim()},
          [&](int i) {
            std::byte* const k = keys.data() + static_cast<size_t>(i % sets) * cache;
            std::byte* const v = values.data() + static_cast<size_t>(i % sets) * cache;
            return b.table().attention(b.stream(), {.q = ActsOf(q),
                                                    .out = ActsOf(out),
                                                    .q_stride = s.q_dim(),
                                                    .cache = {k, v, DType::kBF16, kBlock, s.kv_heads, s.head_dim},
                                                    .sequences = device_list.as<ops::AttentionSequence>(),
                                                    .sequence_count = sequences,
                                                    .q_to_kv = device_heads.as<int32_t>(),
                                                    .q_heads = s.q_heads,
                                                    .q_head_begin = 0,
                                                    .scale = 0.088f,
                                                    .workspace = workspace.as<float>(),
                                                    .plan = device_plan.data(),
                                                    .plan_shape = &shape});
          });
}

void MeasureRope(Bench& b, const Shape& s, int tokens) {
  const auto count = static_cast<size_t>(tokens), half = static_cast<size_t>(s.head_dim) / 2;
  const device::Memory q = b.Random(2 * count * static_cast<size_t>(s.q_dim()));
  const device::Memory k = b.Random(2 * count * static_cast<size_t>(s.kv_dim())), v = b.Random(k.size());
  const device::Memory angles = b.Upload(std::vector<float>(count * half, 0.7f));
  const int blocks = (tokens + 15) / 16;
  const device::Memory cache = b.Random(2 * 2 * static_cast<size_t>(blocks) * 16 * static_cast<size_t>(s.kv_dim()));
  std::vector<int64_t> slots;
  for (int t = 0; t < tokens; ++t) slots.push_back(t);
  const device::Memory device_slots = b.Upload(slots);
  Measure(b, Name(s, "rope_kv", tokens), {4.0 * tokens * s.q_dim() + 8.0 * tokens * s.kv_dim()}, [&](int) {
    return b.table().rope_kv(
        b.stream(), {.q = ActsOf(q),
                     .k = ActsOf(k),
                     .v = ActsOf(v),
                     .q_stride = s.q_dim(),
                     .kv_stride = s.kv_dim(),
                     .cos = angles.as<float>(),
                     .sin = angles.as<float>(),
                     .angles = nullptr,
                     .slots = device_slots.as<int64_t>(),
                     .cache = {cache.data(), cache.data() + cache.size() / 2, DType::kBF16, 16, s.kv_heads, s.head_dim},
                     .tokens = tokens,
                     .q_heads = s.q_heads,
                     .rot_dim = s.head_dim,
                     .interleaved = false});
  });
}

void MeasureSample(Bench& b, const Shape& s, int rows) {
  const device::Memory logits = b.Random(4 * static_cast<size_t>(rows) * static_cast<size_t>(s.vocab));
  const device::Memory tokens = b.Random(4 * static_cast<size_t>(rows));
  for (const bool greedy : {true, false}) {
    const ops::SampleRow row = {.temperature = greedy ? 0.0f : 0.8f, .top_p = greedy ? 1.0f : 0.95f, .uniform = 0.5f};
    const device::Memory params = b.Upload(std::vector<ops::SampleRow>(static_cast<size_t>(rows), row));
    Measure(b, Name(s, greedy ? "sample greedy" : "sample top_p", rows), {4.0 * rows * s.vocab}, [&](int) {
      return b.table().sample(b.stream(), {.logits = logits.as<float>(),
                                           .stride = s.vocab,
                                           .params = params.as<ops::SampleRow>(),
                                           .tokens = tokens.as<int32_t>(),
                                           .rows = rows,
                                           .vocab = s.vocab});
    });
  }
}

// The ops of one layer.
void MeasureLayer(Bench& b, const Shape& s, int tokens) {
  MeasureMatmul(b, s, "qkv", s.type, {s.q_dim(), s.kv_dim(), s.kv_dim()}, s.hidden, tokens);
  MeasureMatmul(b, s, "attention output", s.type, {s.hidden}, s.q_dim(), tokens);
  MeasureMatmul(b, s, "gate and up", s.type, {s.ffn, s.ffn}, s.hidden, tokens);
  MeasureMatmul(b, s, "down", s.type, {s.hidden}, s.ffn, tokens);
  MeasureRows(b, s, tokens);
  MeasureRope(b, s, tokens);
}

}  // namespace

void MeasureOps(Bench& bench) {
  const Sizes sizes = SizesFor(bench);
  for (const Shape& s : bench.Shapes()) {
    for (const int tokens : sizes.batches) {
      MeasureLayer(bench, s, tokens);
      MeasureAttention(bench, s, tokens, 1, sizes.context);
      MeasureMatmul(bench, s, "head", DType::kBF16, {s.vocab}, s.hidden, tokens, true);
      MeasureSample(bench, s, tokens);
    }
    for (const int tokens : sizes.chunks) {
      MeasureLayer(bench, s, tokens);
      MeasureAttention(bench, s, 1, tokens, tokens);
    }
  }
}

}  // namespace shoal::gpu
