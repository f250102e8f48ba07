// bench_kernels [--table NAME] [--threads N] [--only step|matmul|attention|sample]: each hot op of one kernel table
// beside what the machine can do, and the kernels of one whole decode step on the shapes of SmolLM2-135M (Q4_1 layers,
// tied Q8_0 head).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "common/base/rng.h"
#include "kernels/ops/backends.h"
#include "tools/bench/kernels/peak.h"

namespace shoal::bench {
namespace {

using ops::OpTable;
using ops::Stream;

struct Matrix {
  std::vector<uint8_t> bytes;
  ops::Weight view;
};

// Codes are random; scales are small and equal: speed does not depend on them.
Matrix MakeMatrix(const OpTable& table, DType t, int64_t n, int64_t k) {
  std::vector<uint8_t> canonical(RowBytes(t, k) * static_cast<size_t>(n));
  for (size_t i = 0; i < canonical.size(); ++i) canonical[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  const size_t block = Info(t).block_bytes;
  const uint16_t d = F32ToF16(0.01f);
  if (IsQuantised(t)) {
    for (size_t b = 0; b < canonical.size(); b += block) {
      std::memcpy(&canonical[b], &d, 2);
      if (t == DType::kQ4_1) std::memcpy(&canonical[b + 2], &d, 2);
      const uint16_t z = 8;
      if (t == DType::kI4) std::memcpy(&canonical[b + 2], &z, 2);
    }
  } else {
    std::fill(canonical.begin(), canonical.end(), uint8_t{0x3C});  // a small positive number in every float type
  }
  Matrix m;
  m.bytes.resize(table.packed_bytes(t, n, k) + 64);
  uint8_t* aligned = m.bytes.data() + (64 - reinterpret_cast<uintptr_t>(m.bytes.data()) % 64) % 64;
  table.pack_rows(t, canonical.data(), 0, n, n, k, aligned);
  m.view = {aligned, t, n, k};
  return m;
}

struct QuantisedRows {
  QuantisedRows(int tokens, int k)
      : x(static_cast<size_t>(tokens * k)), q(x.size()), scale(x.size() / 32), sum(x.size() / 32) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(RandomBits(1, 2, i) % 2000) / 1000.0f - 1;
    view = {q.data(), scale.data(), sum.data()};
  }
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale, sum;
  ops::QuantisedActs view;
};

// The best of at least 5 runs and 0.2 s.
double BestSeconds(const Stream& stream, const auto& run) {
  run();
  double best = 1e9;
  const double start = Now(stream);
  for (int i = 0; i < 5 || (i < 2000 && Now(stream) - start < 0.2); ++i) {
    const double begin = Now(stream);
    run();
    best = std::min(best, Now(stream) - begin);
  }
  return best;
}

void Check(const absl::Status& s) {
  if (s.ok()) return;
  std::fprintf(stderr, "%s\n", s.ToString().c_str());
  std::exit(1);
}

void BenchMatmul(const OpTable& table, Stream& stream, const Peak& peak) {
  std::printf("\nmatmul [n 4096, k 2048]: us, GB/s of weights (of read peak), Gop/s (of the int8 or f32 peak)\n");
  for (int type = 0; type < kDTypes; ++type) {
    const auto t = static_cast<DType>(type);
    constexpr int kN = 4096, kK = 2048;
    // Several copies, so that one token streams its weights from memory as a model does.
    const size_t copies = std::max<size_t>(1, (size_t{128} << 20) / table.packed_bytes(t, kN, kK));
    std::vector<Matrix> w;
    for (size_t i = 0; i < copies; ++i) w.push_back(MakeMatrix(table, t, kN, kK));
    for (const int tokens : {1, 4, 8, 16, 64, 256}) {
      QuantisedRows acts(tokens, kK);
      Check(table.quantise(stream, {acts.x.data(), acts.view, tokens, kK}));
      std::vector<float> y(static_cast<size_t>(tokens) * kN);
      ops::MatmulArgs a{};
      IsQuantised(t) ? static_cast<void>(a.xq = &acts.view) : static_cast<void>(a.x = acts.x.data());
      a.tokens = tokens;
      a.k = kK;
      a.part_count = 1;
      size_t next = 0;
      const double s = BestSeconds(stream, [&] {
        a.parts[0] = {w[next++ % copies].view, y.data(), kN};
        Check(table.matmul(stream, a));
      });
      const double gb = static_cast<double>(table.packed_bytes(t, kN, kK)) / s / 1e9, gop = 2e-9 * kN * kK * tokens / s;
      std::printf("  %-5s tokens %3d %9.1f us %7.1f GB/s (%3.0f%%) %8.1f Gop/s (%3.0f%%)\n",
                  std::string(Info(t).name).c_str(), tokens, s * 1e6, gb, 100 * gb / peak.read_gb_s, gop,
                  100 * gop / (IsQuantised(t) ? peak.int8_gop_s : peak.f32_gflop_s));
    }
  }
}

// Rows of one sequence at the end of a context, 9 query heads on 3 kv heads of 64.
struct AttentionInput {
  static constexpr int kHeads = 9, kKvHeads = 3, kDim = 64, kBlock = 32;
  AttentionInput(const OpTable& table, const Stream& stream, int sequences, int rows, int context)
      : q(static_cast<size_t>(sequences * rows * kHeads * kDim), 0.1f), out(q.size()) {
    const int blocks = (context + kBlock - 1) / kBlock;
    k.assign(static_cast<size_t>(sequences * blocks * kBlock * kKvHeads * kDim), F32ToF16(0.5f));
    v = k;
    workspace.resize(
        static_cast<size_t>(table.attention_workspace(stream.threads(), sequences * rows, kHeads, kDim, context)));
    tables.resize(static_cast<size_t>(sequences));
    for (int s = 0; s < sequences; ++s) {
      for (int b = 0; b < blocks; ++b) tables[static_cast<size_t>(s)].push_back(s * blocks + b);
      list.push_back({tables[static_cast<size_t>(s)].data(), s * rows, rows, context - rows});
    }
    args.q = q.data();
    args.out = out.data();
    args.q_stride = kHeads * kDim;
    args.cache = {k.data(), v.data(), DType::kF16, kBlock, kKvHeads, kDim};
    args.sequences = list.data();
    args.sequence_count = sequences;
    args.q_to_kv = q_to_kv;
    args.q_heads = kHeads;
    args.scale = 0.125f;
    args.workspace = workspace.data();
  }
  const int32_t q_to_kv[kHeads] = {0, 0, 0, 1, 1, 1, 2, 2, 2};
  std::vector<float> q, out, workspace;
  std::vector<uint16_t> k, v;
  std::vector<std::vector<int32_t>> tables;
  std::vector<ops::AttentionSequence> list;
  ops::AttentionArgs args{};
};

void BenchAttention(const OpTable& table, Stream& stream, const Peak& peak) {
  std::printf("\nattention [9 heads on 3, dim 64, f16]: us, GB/s of KV, GFLOP/s (of f32 peak)\n");
  const int cases[][3] = {{1, 1, 256}, {1, 1, 2048}, {1, 1, 8192}, {16, 1, 256}, {1, 512, 512}, {1, 512, 4096}};
  for (const auto& [sequences, rows, context] : cases) {
    AttentionInput in(table, stream, sequences, rows, context);
    const double s = BestSeconds(stream, [&] { Check(table.attention(stream, in.args)); });
    const double pairs = static_cast<double>(sequences) * rows * (context - rows / 2.0) * in.kHeads;
    const double gflop = pairs * in.kDim * 4 / s / 1e9;
    const double gb = static_cast<double>(sequences) * context * in.kKvHeads * in.kDim * 4 / s / 1e9;
    std::printf("  sequences %2d rows %3d context %4d %9.1f us %7.1f GB/s %8.1f GFLOP/s (%3.0f%%)\n", sequences, rows,
                context, s * 1e6, gb, gflop, 100 * gflop / peak.f32_gflop_s);
  }
}

void BenchSample(const OpTable& table, Stream& stream) {
  std::printf("\nsample, us a row\n");
  for (const int vocab : {49152, 128256}) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(RandomBits(4, 5, i) % 20000) / 1000.0f;
    const std::pair<const char*, ops::SampleRow> cases[] = {
        {"greedy", {}},
        {"temperature", {.temperature = 1, .uniform = 0.7f}},
        {"top_p 0.95", {.temperature = 1, .top_p = 0.95f, .uniform = 0.7f}},
        {"top_k 40", {.temperature = 1, .top_k = 40, .uniform = 0.7f}}};
    for (const auto& [name, row] : cases) {
      int32_t token;
      const double s = BestSeconds(stream, [&] {
        Check(table.sample(stream, {logits.data(), vocab, &row, &token, 1, vocab}));
      });
      std::printf("  vocab %6d %-12s %9.1f\n", vocab, name, s * 1e6);
    }
  }
}

// The ops of one decode step, in order, on weights that fill memory as the model's do.
class Step {
 public:
  Step(const OpTable& table, Stream& stream, int tokens)
      : table_(table),
        stream_(stream),
        tokens_(tokens),
        x_(tokens, kDim),
        ffn_(tokens, kFfn),
        attention_(table, stream, tokens, 1, 256),
        qkv_(static_cast<size_t>(tokens * kQkv)),
        gate_(ffn_.x.size()),
        norm_(kDim, 1.0f),
        rope_(static_cast<size_t>(tokens) * 32, 0.7f),
        residual_(x_.x.size(), 0.1f),
        logits_(static_cast<size_t>(tokens) * kVocab) {
    for (int l = 0; l < kLayers; ++l) {
      for (const auto& [n, k] :
           {std::pair{kDim, kDim}, {192, kDim}, {192, kDim}, {kDim, kDim}, {kFfn, kDim}, {kFfn, kDim}, {kDim, kFfn}}) {
        weights_.push_back(MakeMatrix(table, DType::kQ4_1, n, k));
      }
    }
    head_ = MakeMatrix(table, DType::kQ8_0, kVocab, kDim);
    for (int t = 0; t < tokens; ++t) slots_.push_back(t * 256 + 255);
  }

  void Run() {
    for (size_t l = 0; l < kLayers; ++l) {
      const Matrix* w = &weights_[l * 7];
      NormAndQuantise();
      Multiply(x_, kDim,
               {{w[0].view, qkv_.data(), kQkv}, {w[1].view, &qkv_[kDim], kQkv}, {w[2].view, &qkv_[kDim + 192], kQkv}});
      ops::RopeKvArgs rope{qkv_.data(),  &qkv_[kDim],   &qkv_[kDim + 192],     kQkv,    kQkv, rope_.data(),
                           rope_.data(), slots_.data(), attention_.args.cache, tokens_, 9,    64,
                           true};
      Timed(3, [&] { Check(table_.rope_kv(stream_, rope)); });
      attention_.args.q = qkv_.data();
      attention_.args.q_stride = kQkv;
      Timed(4, [&] { Check(table_.attention(stream_, attention_.args)); });
      Timed(1, [&] { Check(table_.quantise(stream_, {attention_.out.data(), x_.view, tokens_, kDim})); });
      Multiply(x_, kDim, {{w[3].view, x_.x.data(), kDim}});
      NormAndQuantise();
      Multiply(x_, kDim, {{w[4].view, gate_.data(), kFfn}, {w[5].view, ffn_.x.data(), kFfn}});
      Timed(5, [&] {
        Check(table_.glu(stream_, {gate_.data(), ffn_.x.data(), ffn_.x.data(), tokens_, kFfn, ops::Activation::kSilu}));
      });
      Timed(1, [&] { Check(table_.quantise(stream_, {ffn_.x.data(), ffn_.view, tokens_, kFfn})); });
      Multiply(ffn_, kFfn, {{w[6].view, x_.x.data(), kDim}});
    }
    NormAndQuantise();
    Multiply(x_, kDim, {{head_.view, logits_.data(), kVocab}}, 6);
  }
  void Report(int runs) const {
    const char* names[] = {"rms_norm", "quantise", "matmul", "rope_kv", "attention", "glu", "head"};
    for (int i = 0; i < 7; ++i) std::printf("    %-10s %7.3f ms\n", names[i], seconds_[i] / runs * 1e3);
  }
  void Reset() { std::fill(seconds_, seconds_ + 7, 0.0); }

 private:
  static constexpr int kLayers = 30, kDim = 576, kFfn = 1536, kQkv = 960, kVocab = 49152;

  template <typename F>
  void Timed(int what, F&& f) {
    const double begin = Now(stream_);
    f();
    seconds_[what] += Now(stream_) - begin;
  }
  void NormAndQuantise() {
    Timed(0, [&] {
      Check(table_.rms_norm(stream_,
                            {residual_.data(), x_.x.data(), norm_.data(), qkv_.data(), tokens_, kDim, 1e-5f, 0}));
    });
    Timed(1, [&] { Check(table_.quantise(stream_, {qkv_.data(), x_.view, tokens_, kDim})); });
  }
  void Multiply(QuantisedRows& in, int k, std::initializer_list<ops::MatmulPart> parts, int what = 2) {
    ops::MatmulArgs a{};
    a.xq = &in.view;
    a.tokens = tokens_;
    a.k = k;
    for (const ops::MatmulPart& p : parts) a.parts[a.part_count++] = p;
    Timed(what, [&] { Check(table_.matmul(stream_, a)); });
  }

  const OpTable& table_;
  Stream& stream_;
  int tokens_;
  QuantisedRows x_, ffn_;
  AttentionInput attention_;
  std::vector<float> qkv_, gate_, norm_, rope_, residual_, logits_;
  std::vector<int64_t> slots_;
  std::vector<Matrix> weights_;
  Matrix head_;
  double seconds_[7] = {};
};

void BenchStep(const OpTable& table, Stream& stream) {
  std::printf("\nthe kernels of one decode step, SmolLM2-135M Q4_1, context 256\n");
  for (const int tokens : {1, 4, 16}) {
    Step step(table, stream, tokens);
    for (int i = 0; i < 3; ++i) step.Run();
    step.Reset();
    int runs = 0;
    const double s = BestSeconds(stream, [&] {
      step.Run();
      ++runs;
    });
    std::printf("  %2d sequences: %7.3f ms, %7.1f tokens/s\n", tokens, s * 1e3, tokens / s);
    step.Report(runs);
  }
}

}  // namespace

int Main(int argc, char** argv) {
  std::string name = "cpu", only;
  int threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--table") == 0) name = argv[i + 1];
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  const auto table = ops::FindOpTable(name);
  Check(table.status());
  const std::unique_ptr<Stream> stream = ops::MakeCpuStream(threads);
  const Peak peak = MeasurePeak(*stream);
  std::printf("%s, %d threads; machine: %.1f GB/s read, %.0f GFLOP/s f32, %.0f Gop/s int8\n",
              std::string((*table)->name).c_str(), threads, peak.read_gb_s, peak.f32_gflop_s, peak.int8_gop_s);
  if (only.empty() || only == "step") BenchStep(**table, *stream);
  if (only.empty() || only == "matmul") BenchMatmul(**table, *stream, peak);
  if (only.empty() || only == "attention") BenchAttention(**table, *stream, peak);
  if (only.empty() || only == "sample") BenchSample(**table, *stream);
  return 0;
}

}  // namespace shoal::bench

int main(int argc, char** argv) { return shoal::bench::Main(argc, argv); }
