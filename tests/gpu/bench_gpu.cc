// First timings of the ops on a device: layers of the shapes of an 8B model in bf16 and a 70B one in fp8, each op at
// batches that decode and at chunks that are prefilled, in GB/s beside a copy on the same device in the same run, or in
// TFLOP/s. An op is launched many times from a graph, on weights in turn that together exceed the caches, and the
// wall clock stops at a mark behind them.   bench_gpu [--quick]
// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs it on small sizes)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/base/rng.h"
#include "tests/gpu/gpu_plugin.h"
#include "worker/device/device.h"

namespace shoal::gpu {
namespace {

using Clock = std::chrono::steady_clock;

struct Shape {
  std::string name;
  DType type;
  int hidden, q_heads, kv_heads, head_dim, ffn, vocab;
  int q_dim() const { return q_heads * head_dim; }
  int kv_dim() const { return kv_heads * head_dim; }
};
struct Sizes {
  std::vector<Shape> shapes;
  std::vector<int> batches, chunks;
  int context;  // of each sequence that decodes
  size_t copy_bytes;
  size_t rotate_bytes;  // of weights in turn: more than any device's L2
  double seconds;       // a measurement lasts at least so long
};

Sizes SizesFor(bool large, bool quick) {
  if (!large) {
    return {{{"tiny bf16", DType::kBF16, 64, 4, 2, 16, 96, 320}, {"tiny fp8", DType::kF8E4M3, 64, 4, 2, 16, 96, 320}},
            {1, 8},
            {20},
            50,
            size_t{1} << 16,
            1,
            0};
  }
  return {{{"8B bf16", DType::kBF16, 4096, 32, 8, 128, 14336, 128256},
           {"70B fp8", DType::kF8E4M3, 8192, 64, 8, 128, 28672, 128256}},
          quick ? std::vector<int>{1, 32} : std::vector<int>{1, 8, 32, 128},
          quick ? std::vector<int>{2048} : std::vector<int>{2048, 8192},
          2048,
          size_t{1} << 30,
          size_t{256} << 20,
          0.03};
}

// A measurement that cannot be made ends the program.
void Must(const absl::Status& status, const std::string& what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what.c_str(), status.ToString().c_str());
  std::exit(1);
}
template <typename T>
T Must(absl::StatusOr<T> value, const std::string& what) {
  Must(value.status(), what);
  return std::move(*value);
}

class Bench {
 public:
  Bench(ops::Accelerator* accelerator, device::Device* device, const Sizes& sizes, bool large)
      : accelerator_(accelerator), device_(device), sizes_(sizes), large_(large) {}
  const ops::OpTable& table() const { return device_->table(); }
  ops::Stream& stream() const { return device_->stream(); }
  const Sizes& sizes() const { return sizes_; }
  int measured() const { return measured_; }

  // Finite numbers as bf16, as fp8, and as anything whose bytes are small.
  device::Memory Random(size_t bytes) {
    device::Memory memory = Must(device_->Allocate(std::max<size_t>(bytes, 1)), "memory");
    constexpr size_t kPiece = size_t{1} << 20;
    std::vector<uint64_t> piece(kPiece / 8);
    for (size_t i = 0; i < piece.size(); ++i) {
      piece[i] = (RandomBits(1, 2, i) & 0x83bf83bf83bf83bf) | 0x3c003c003c003c00;
    }
    for (size_t at = 0; at < bytes; at += kPiece) {
      Must(device_->Upload(memory.data() + at, piece.data(), std::min(kPiece, bytes - at)), "upload");
    }
    return memory;
  }
  template <typename T>
  device::Memory Upload(const std::vector<T>& values) {
    device::Memory memory = Must(device_->Allocate(values.size() * sizeof(T)), "memory");
    Must(device_->Upload(memory.data(), values.data(), memory.size()), "upload");
    return memory;
  }

  // Bytes per second of a copy, reads and writes counted.
  void MeasureCopy() {
    const device::Memory from = Random(sizes_.copy_bytes), to = Random(sizes_.copy_bytes);
    const double seconds = SecondsOf([&](int) { return accelerator_->Copy(to.data(), from.data(), from.size()); }, 4);
    copy_ = 2 * static_cast<double>(from.size()) / seconds;
    if (large_) std::printf("figure: device copy %.0f GB/s\n", copy_ / 1e9);
  }
  // What the op must do at least. Operations count where there are many for each byte.
  struct Work {
    double bytes, operations = 0;
  };
  // enqueue(i): the op on the i-th set of weights.
  void Measure(const std::string& name, const Work& work, const std::function<absl::Status(int)>& enqueue) {
    const double seconds = SecondsOf(enqueue, 16);
    ++measured_;
    if (!large_) return;  // an emulated device has no speed
    std::printf("figure: %s %.1f us\n", name.c_str(), seconds * 1e6);
    if (work.operations / work.bytes > 300) {
      std::printf("figure: %s %.1f TFLOP/s\n", name.c_str(), work.operations / seconds / 1e12);
    } else {
      std::printf("figure: %s %.0f GB/s\n", name.c_str(), work.bytes / seconds / 1e9);
      std::printf("figure: %s %.3f of-a-copy\n", name.c_str(), work.bytes / seconds / copy_);
    }
    std::fflush(stdout);
  }

 private:
  void Wait() {
    const uint64_t mark = Must(device_->Mark(), "mark");
    while (!Must(device_->Reached(mark), "waiting")) std::this_thread::yield();
  }
  // Of one of them; `count` are recorded together. The best of three.
  double SecondsOf(const std::function<absl::Status(int)>& enqueue, int count) {
    const auto graph = Must(device_->Record([&] {
      for (int i = 0; i < count; ++i) {
        if (absl::Status s = enqueue(i); !s.ok()) return s;
      }
      return absl::OkStatus();
    }),
                            "recording");
    const auto timed = [&](int launches) {
      const auto begin = Clock::now();
      for (int i = 0; i < launches; ++i) Must(device_->Launch(*graph), "launch");
      Wait();
      return std::chrono::duration<double>(Clock::now() - begin).count();
    };
    double seconds = timed(1);  // warms up
    int launches = 1;
    while ((seconds = timed(launches)) < sizes_.seconds) launches *= 2;
    for (int again = 0; again < 2; ++again) seconds = std::min(seconds, timed(launches));
    return seconds / launches / count;
  }

  ops::Accelerator* const accelerator_;
  device::Device* const device_;
  const Sizes sizes_;
  const bool large_;
  double copy_ = 1;
  int measured_ = 0;
};

std::string Name(const Shape& s, const std::string& op, int tokens) {
  return s.name + " " + op + " " + std::to_string(tokens);
}
ops::Acts ActsOf(const device::Memory& memory) { return ops::Acts(static_cast<void*>(memory.data())); }

// Products of one x with weights of n rows each.
void MeasureMatmul(Bench& b, const Shape& s, const std::string& op, DType type, std::vector<int> rows, int k,
                   int tokens, bool f32_out = false) {
  double n = 0;
  std::vector<size_t> begin;
  size_t set = 0;
  for (const int r : rows) {
    begin.push_back(set);
    set += (b.table().packed_bytes(type, r, k) + 255) / 256 * 256;
    n += r;
  }
  const int sets = std::clamp(static_cast<int>(b.sizes().rotate_bytes / set) + 1, 1, 16);
  const device::Memory weights = b.Random(set * static_cast<size_t>(sets));
  const device::Memory x = b.Random(2 * static_cast<size_t>(tokens) * static_cast<size_t>(k));
  const size_t width = f32_out ? 4 : 2;
  const device::Memory y = b.Random(width * static_cast<size_t>(tokens) * static_cast<size_t>(n));
  const bool scaled = IsByte(type);
  const device::Memory scale =
      b.Upload(std::vector<float>(static_cast<size_t>(*std::max_element(rows.begin(), rows.end())), 0.01f));
  const double bytes = static_cast<double>(set) + tokens * (2.0 * k + static_cast<double>(width) * n);
  b.Measure(Name(s, op, tokens), {bytes, 2.0 * tokens * n * k}, [&](int i) {
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
}

void MeasureRows(Bench& b, const Shape& s, int tokens) {
  const auto count = static_cast<size_t>(tokens);
  const device::Memory x = b.Random(2 * count * static_cast<size_t>(s.hidden)), add = b.Random(x.size()),
                       y = b.Random(x.size());
  const device::Memory w = b.Upload(std::vector<float>(static_cast<size_t>(s.hidden), 1.0f));
  b.Measure(Name(s, "rms_norm with join", tokens), {10.0 * tokens * s.hidden}, [&](int) {
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
  b.Measure(Name(s, "glu", tokens), {6.0 * tokens * s.ffn}, [&](int) {
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
  const device::Memory k = b.Random(cache), v = b.Random(cache);
  const device::Memory q = b.Random(2 * static_cast<size_t>(tokens) * static_cast<size_t>(s.q_dim()));
  const device::Memory out = b.Random(q.size());
  const double seen = rows * (context - rows) + rows * (rows + 1) / 2.0;  // keys of all rows of a sequence
  b.Measure(Name(s, rows == 1 ? "attention decode" : "attention prefill", tokens),
            {4.0 * sequences * context * s.kv_dim() + 4.0 * tokens * s.q_dim(), 4.0 * sequences * seen * s.q_dim()},
            [&](int) {
              return b.table().attention(b.stream(),
                                         {.q = ActsOf(q),
                                          .out = ActsOf(out),
                                          .q_stride = s.q_dim(),
                                          .cache = {k.data(), v.data(), DType::kBF16, kBlock, s.kv_heads, s.head_dim},
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
  b.Measure(Name(s, "rope_kv", tokens), {4.0 * tokens * s.q_dim() + 8.0 * tokens * s.kv_dim()}, [&](int) {
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
    b.Measure(Name(s, greedy ? "sample greedy" : "sample top_p", rows), {4.0 * rows * s.vocab}, [&](int) {
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

int Run(bool quick) {
  auto opened = OpenAccelerator();
  if (!opened.ok()) return ReportNotOpened(opened.status());
  ops::Accelerator* const accelerator = opened->get();
  const bool large = Must(accelerator->Memory(), "memory").total >= kLargeDevice;
  const auto device = Must(device::MakeAcceleratorDevice(std::move(*opened)), "device");
  std::printf("%s\n", DescribeDevice().c_str());
  Bench bench(accelerator, device.get(), SizesFor(large, quick), large);
  bench.MeasureCopy();
  for (const Shape& s : bench.sizes().shapes) {
    for (const int tokens : bench.sizes().batches) {
      MeasureLayer(bench, s, tokens);
      MeasureAttention(bench, s, tokens, 1, bench.sizes().context);
      MeasureMatmul(bench, s, "head", DType::kBF16, {s.vocab}, s.hidden, tokens, true);
      MeasureSample(bench, s, tokens);
    }
    for (const int tokens : bench.sizes().chunks) {
      MeasureLayer(bench, s, tokens);
      MeasureAttention(bench, s, 1, tokens, tokens);
    }
  }
  std::printf("figure: timings %d ops\n", bench.measured());
  return 0;
}

}  // namespace
}  // namespace shoal::gpu

int main(int argc, char** argv) { return shoal::gpu::Run(argc > 1 && std::strcmp(argv[1], "--quick") == 0); }
