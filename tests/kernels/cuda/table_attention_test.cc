// Attention through the op table, with plans, beside the reference's.
#include "kernels/cuda/queue_stream.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/attention_memory.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 3;
constexpr float kScale = 0.11f;

// Everything that batches of one shape share: a plan is written anew over the one before it.
class Backend {
 public:
  struct Most {
    int tokens, sequences, context, rows = 0;
    bool causal = true;
  };
  Backend(const AttentionShape& shape, const Most& most)
      : shape_(shape),
        plan_shape_({.threads = kThreads,
                     .max_tokens = most.tokens,
                     .max_sequences = most.sequences,
                     .max_context = most.context,
                     .q_to_kv = shape_.q_to_kv.data(),
                     .q_heads = shape_.q_heads(),
                     .kv_heads = shape_.kv_heads,
                     .head_dim = shape_.head_dim,
                     .max_rows = most.rows,
                     .causal = most.causal}),
        plan_(static_cast<size_t>(Table().attention_plan_bytes(plan_shape_))),
        floats_(static_cast<size_t>(
            Table().attention_workspace(kThreads, most.tokens, shape_.q_heads(), shape_.head_dim, most.context))),
        workspace_(floats_ + 16) {}

  ops::AttentionArgs ArgsOf(AttentionMemory& m) {
    return {.q = ops::ConstActs(static_cast<const void*>(m.q.data())),
            .out = ops::Acts(static_cast<void*>(m.out.data())),
            .q_stride = static_cast<int64_t>(shape_.row()) + 2,
            .cache = {m.k.data(), m.v.data(), DType::kBF16, shape_.block_size, shape_.kv_heads, shape_.head_dim},
            .sequences = m.sequences.data(),
            .sequence_count = static_cast<int>(m.sequences.size()),
            .q_to_kv = shape_.q_to_kv.data(),
            .q_heads = shape_.q_heads(),
            .q_head_begin = 0,
            .scale = kScale,
            .workspace = workspace_.data(),
            .window = window,
            .soft_cap = soft_cap,
            .causal = plan_shape_.causal,
            .plan = plan_.data(),
            .plan_shape = &plan_shape_};
  }
  absl::Status Enqueue(const ops::AttentionArgs& args) {
    QueueStream stream(nullptr, kThreads);
    return Table().attention(stream, args);
  }
  // out of all parts' tokens in their order; then the rows of padding.
  std::vector<float> Attend(const std::vector<AttentionPart>& parts, uint64_t placement = 1, size_t padding = 0) {
    AttentionMemory m(shape_, parts, placement, padding);
    Table().attention_plan(plan_shape_, m.sequences.data(), static_cast<int>(m.sequences.size()), plan_.data());
    const absl::Status status = Enqueue(ArgsOf(m));
    EXPECT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < 16; ++i) EXPECT_TRUE(std::isnan(workspace_.data()[floats_ + i])) << "beyond the workspace";
    return m.out.Floats();
  }
  std::vector<float> Reference(const std::vector<AttentionPart>& parts) {
    AttentionMemory m(shape_, parts, 1);
    const std::vector<float> q = m.q.Floats();
    std::vector<float> out(m.out.size());
    ops::AttentionArgs args = ArgsOf(m);
    args.q = q.data();
    args.out = out.data();
    const auto stream = ops::MakeCpuStream(1);
    EXPECT_TRUE(ops::RefTable().attention(*stream, args).ok());
    return out;
  }
  void ExpectNear(const std::vector<AttentionPart>& parts) {
    ops::ExpectRowsNear(Reference(parts), Attend(parts), static_cast<size_t>(shape_.head_dim), 1e-2f);
  }
  const ops::AttentionPlanShape& plan_shape() const { return plan_shape_; }
  // Of the layer.
  int window = 0;
  float soft_cap = 0;

 private:
  const AttentionShape shape_;
  const ops::AttentionPlanShape plan_shape_;
  Buffer<uint8_t> plan_;
  const size_t floats_;
  Buffer<float> workspace_;  // 16 more, which nobody writes
};

const AttentionShape kLarge = {{0, 0, 1}, 2, 256, 64};

TEST(CudaTableAttention, AgreesWithTheReference) { ExpectAttentionIsTheReferences<Backend>(); }

TEST(CudaTableAttention, TheOrderOfThreadsDoesNotShow) {
  Backend backend(kUneven, {50, 2, 800});
  const auto y = InEveryOrder<float>([&] { return backend.Attend({{1, 700, 701}, {2, 300, 340}}); });
  EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); }));
}

// Whatever the batch, its shape, the plan's history and the blocks.
TEST(CudaTableAttention, ARowAloneIsTheRowAmongOthers) {
  for (const AttentionShape& shape : {kUneven, kWideGroup, kLarge}) {
    const std::vector<AttentionPart> parts = {{1, 700, 701}, {2, 0, 1}, {3, 513, 560}, {4, 255, 256}, {5, 256, 258}};
    std::vector<float> alone;
    for (const AttentionPart& p : parts) {
      for (int at = p.begin; at < p.end; at += p.begin == 513 ? 16 : 1) {  // in chunks, too
        Backend backend(shape, {16, 1, 1024});
        const auto y = backend.Attend({{p.id, at, std::min(at + (p.begin == 513 ? 16 : 1), p.end)}}, 3);
        alone.insert(alone.end(), y.begin(), y.end());
      }
    }
    Backend together(shape, {100, 8, 1024});
    for (const uint64_t placement : {5, 6}) ops::ExpectSameBits(alone, together.Attend(parts, placement));
  }
}

TEST(CudaTableAttention, ADecodingShapeGivesTheSameBits) { ExpectADecodingShapeGivesTheSameBits<Backend>(700); }

// One plan serves layers with a window, with a cap and with neither.
TEST(CudaTableAttention, LayersOfSeveralKindsShareAPlan) {
  Backend backend(kUneven, {120, 6, 1600});
  for (const int window : {0, 70, INT32_MAX}) {
    for (const float cap : {0.0f, 5.0f}) {
      SCOPED_TRACE(testing::Message() << "window " << window << " cap " << cap);
      backend.window = window;
      backend.soft_cap = cap;
      backend.ExpectNear({{1, 1500, 1501}, {2, 0, 1}, {3, 500, 560}, {4, 255, 256}, {5, 256, 258}});
    }
  }
}

TEST(CudaTableAttention, EncodersSeeAll) {
  Backend backend(kUneven, {.tokens = 400, .sequences = 4, .context = 300, .causal = false});
  backend.ExpectNear({{1, 0, 290}, {2, 0, 1}, {3, 0, 60}});
  backend.ExpectNear({{4, 0, 2}, {5, 0, 257}});
}

TEST(CudaTableAttention, PaddingIsNotWritten) { ExpectPaddingIsNotWritten<Backend>(); }

TEST(CudaTableAttention, RefusesOtherPlansAndCaches) {
  Backend backend(kUneven, {8, 8, 512, 1});
  AttentionMemory m(kUneven, {{1, 0, 1}}, 1);
  const auto refused = [&](const ops::AttentionArgs& args) {
    return backend.Enqueue(args).code() == absl::StatusCode::kInvalidArgument;
  };
  ops::AttentionArgs args = backend.ArgsOf(m);
  args.plan = nullptr;
  EXPECT_TRUE(refused(args));
  args = backend.ArgsOf(m);
  args.plan_shape = nullptr;
  EXPECT_TRUE(refused(args));
  args = backend.ArgsOf(m);
  args.cache.dtype = DType::kF16;
  EXPECT_TRUE(refused(args));
  ops::AttentionPlanShape other = backend.plan_shape();
  other.threads = kThreads + 1;
  args = backend.ArgsOf(m);
  args.plan_shape = &other;
  EXPECT_TRUE(refused(args));
  args = backend.ArgsOf(m);
  args.causal = false;
  EXPECT_TRUE(refused(args)) << "a plan of causal attention";
}

}  // namespace
}  // namespace shoal::cuda
