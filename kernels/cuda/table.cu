// Tested by: tests/kernels/cuda/table_test.cc
#include <algorithm>
#include <string>

#include "kernels/cuda/all_reduce.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/checksum.h"
#include "kernels/cuda/copy_blocks.h"
#include "kernels/cuda/dummy_matrix.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/fast_matmul.h"
#include "kernels/cuda/gather_ids.h"
#include "kernels/cuda/gather_rows.h"
#include "kernels/cuda/glu.h"
#include "kernels/cuda/layer_norm.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_layout.h"
#include "kernels/cuda/place_columns.h"
#include "kernels/cuda/pool.h"
#include "kernels/cuda/queue_stream.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/soft_cap.h"
#include "kernels/cuda/sum_ranks.h"
#include "kernels/cuda/table.h"
#include "kernels/cuda/token_counts.h"

namespace shoal::cuda {
namespace {

static_assert(kMaxLinearParts == ops::kMaxMatmulParts);

DeviceStream QueueOf(ops::Stream& stream) { return static_cast<QueueStream&>(stream).queue(); }

// Types that linear and embed both read.
bool Supports(DType t) { return t != DType::kF32; }
bool Quantises(DType) { return false; }
void PackRows(DType t, const void* src, int64_t row_begin, int64_t rows, int64_t /*n*/, int64_t k, void* dst) {
  PackLinear(t, src, row_begin, rows, k, dst);
}

// Ops whose arguments on a device are those of kernels/ops.
template <typename Args>
absl::Status Same(ops::Stream& stream, const Args& a) {
  return Enqueue(QueueOf(stream), a);
}

absl::Status EmbedIds(ops::Stream& stream, const ops::EmbedArgs& a) {
  return Enqueue(QueueOf(stream), Embed{.table = a.table,
                                        .ids = a.ids,
                                        .row_begin = a.row_begin,
                                        .scale = a.scale,
                                        .x = a.x.as<bf16>(),
                                        .tokens = a.tokens,
                                        .add = a.add});
}

absl::Status Gather(ops::Stream& stream, const ops::GatherRowsArgs& a) {
  return Enqueue(QueueOf(stream),
                 GatherRows{.x = a.x.as<bf16>(), .rows = a.rows, .y = a.y.as<bf16>(), .count = a.count, .dim = a.dim});
}

absl::Status Norm(ops::Stream& stream, const ops::RmsNormArgs& a) {
  return Enqueue(QueueOf(stream), RmsNorm{.x = a.x.as<bf16>(),
                                          .add = a.add.as<bf16>(),
                                          .w = a.w,
                                          .y = a.y.as<bf16>(),
                                          .tokens = a.tokens,
                                          .dim = a.dim,
                                          .eps = a.eps,
                                          .weight_bias = a.weight_bias});
}

absl::Status NormWithMean(ops::Stream& stream, const ops::LayerNormArgs& a) {
  return Enqueue(QueueOf(stream), LayerNorm{.x = a.x.as<bf16>(),
                                            .add = a.add.as<bf16>(),
                                            .w = a.w,
                                            .bias = a.bias,
                                            .y = a.y.as<bf16>(),
                                            .tokens = a.tokens,
                                            .dim = a.dim,
                                            .eps = a.eps});
}

// A part without rows, such as the vocabulary of a rank that has none, is nothing to do.
absl::Status Multiply(ops::Stream& stream, const ops::MatmulArgs& a) {
  Linear op = {.x = a.x.as<bf16>(), .parts = {}, .part_count = 0, .tokens = a.tokens, .k = a.k};
  for (int p = 0; p < a.part_count; ++p) {
    const ops::MatmulPart& part = a.parts[p];
    if (part.w.n == 0) continue;
    op.parts[op.part_count++] = {.w = part.w.data,
                                 .type = part.w.dtype,
                                 .n = static_cast<int>(part.w.n),
                                 .y = a.f32_out ? nullptr : part.y.as<bf16>(),
                                 .y_f32 = a.f32_out ? part.y.as<float>() : nullptr,
                                 .y_stride = part.y_stride,
                                 .row_scale = part.w.row_scale,
                                 .bias = part.w.bias};
  }
  return Enqueue(QueueOf(stream), op);
}

absl::Status MultiplyFast(ops::Stream& stream, const ops::MatmulArgs& a) {
  return FastMatmul(static_cast<QueueStream&>(stream), a, Multiply);
}

absl::Status Rope(ops::Stream& stream, const ops::RopeKvArgs& a) {
  return Enqueue(QueueOf(stream), RopeKv{.q = a.q.as<bf16>(),
                                         .k = a.k.as<bf16>(),
                                         .v = a.v.as<bf16>(),
                                         .q_stride = a.q_stride,
                                         .kv_stride = a.kv_stride,
                                         .cos = a.cos,
                                         .sin = a.sin,
                                         .angles = a.angles,
                                         .slots = a.slots,
                                         .cache = a.cache,
                                         .tokens = a.tokens,
                                         .q_heads = a.q_heads,
                                         .rot_dim = a.rot_dim,
                                         .interleaved = a.interleaved});
}

// A window that is no window, and which positions can be added to.
constexpr int kPositionsMax = 1 << 30;

absl::Status Attend(ops::Stream& stream, const ops::AttentionArgs& a) {
  if (a.plan == nullptr || a.plan_shape == nullptr) return absl::InvalidArgumentError("attention: there is no plan");
  if (a.cache.dtype != DType::kBF16) return absl::InvalidArgumentError("attention: the cache is not bf16");
  const ops::AttentionPlanShape& s = *a.plan_shape;
  if (s.q_heads != a.q_heads || s.kv_heads != a.cache.kv_heads || s.head_dim != a.cache.head_dim ||
      s.threads != stream.threads() || s.causal != a.causal) {
    return absl::InvalidArgumentError("attention: the plan is of another shape");
  }
  Attention op = {.q = a.q.as<bf16>(),
                  .out = a.out.as<bf16>(),
                  .q_stride = a.q_stride,
                  .k = static_cast<const bf16*>(a.cache.k),
                  .v = static_cast<const bf16*>(a.cache.v),
                  .block_size = a.cache.block_size,
                  .kv_heads = a.cache.kv_heads,
                  .head_dim = a.cache.head_dim,
                  .q_heads = a.q_heads,
                  .scale = a.scale,
                  .sequences = a.sequences,
                  .heads_begin = nullptr,
                  .narrow = {},
                  .wide = {},
                  .narrow_rows = 0,
                  .window = std::min(a.window, kPositionsMax),
                  .soft_cap = a.soft_cap,
                  .causal = a.causal};
  TakeAttentionPlan(s, a.plan, a.workspace, &op);
  return Enqueue(QueueOf(stream), op);
}

int64_t PlanBytes(const ops::AttentionPlanShape& shape) { return LayoutOf(shape).bytes; }

absl::Status Activate(ops::Stream& stream, const ops::GluArgs& a) {
  return Enqueue(QueueOf(stream), Glu{.gate = a.gate.as<bf16>(),
                                      .up = a.up.as<bf16>(),
                                      .in_stride = a.dim,
                                      .y = a.y.as<bf16>(),
                                      .y_stride = a.dim,
                                      .tokens = a.tokens,
                                      .dim = a.dim,
                                      .activation = a.activation});
}

// A matrix without rows is nothing to do, as in a matmul.
absl::Status MultiplyExperts(ops::Stream& stream, const ops::ExpertMatmulArgs& a) {
  if (a.part_count == 0) return absl::OkStatus();
  const ops::ExpertWeights& first = a.parts[0].w;
  ExpertLinear op = {.x = a.x.as<bf16>(),
                     .parts = {},
                     .type = first.first.dtype,
                     .n = static_cast<int>(first.first.n),
                     .stride = first.stride,
                     .first = a.first,
                     .rows = a.rows,
                     .experts = a.experts,
                     .k = a.k};
  for (int p = 0; p < a.part_count; ++p) {
    const ops::ExpertWeights& w = a.parts[p].w;
    if (w.first.dtype != op.type || w.first.n != op.n || w.stride != op.stride) {
      return absl::InvalidArgumentError("expert_matmul: parts of several types or sizes");
    }
    op.parts[p] = {
        .w = w.first.data, .y = a.parts[p].y.as<bf16>(), .row_scale = w.first.row_scale, .bias = w.first.bias};
  }
  return Enqueue(QueueOf(stream), op);
}

absl::Status Join(ops::Stream& stream, const ops::JoinExpertsArgs& a) {
  return Enqueue(QueueOf(stream), JoinExperts{.y = a.y.as<bf16>(),
                                              .weights = a.weights,
                                              .sorted = a.sorted,
                                              .out = a.out.as<bf16>(),
                                              .tokens = a.tokens,
                                              .used = a.used,
                                              .dim = a.dim});
}

absl::Status PoolRows(ops::Stream& stream, const ops::PoolArgs& a) {
  return Enqueue(QueueOf(stream), Pool{.x = a.x.as<bf16>(),
                                       .first = a.first,
                                       .rows = a.rows,
                                       .y = a.y,
                                       .count = a.count,
                                       .dim = a.dim,
                                       .pooling = a.pooling,
                                       .normalise = a.normalise});
}

absl::Status Sum(ops::Stream& stream, const ops::SumRanksArgs& a) {
  return Enqueue(
      QueueOf(stream),
      SumRanks{
          .parts = a.parts.as<bf16>(), .stride = a.stride, .y = a.y.as<bf16>(), .count = a.count, .ranks = a.ranks});
}

absl::Status Reduce(ops::Stream& stream, const ops::AllReduceArgs& a) {
  AllReduce<bf16> op = {.x = a.x.as<bf16>(),
                        .y = a.y.as<bf16>(),
                        .count = a.count,
                        .rank = a.rank,
                        .ranks = a.ranks,
                        .areas = {},
                        .rounds = a.rounds,
                        .abort = a.abort};
  for (int r = 0; r < ops::kAllReduceMaxRanks; ++r) op.areas[r] = a.areas[r];
  return Enqueue(QueueOf(stream), op);
}

// As each kernel's Enqueue refuses them.
absl::Status CheckSizes(const ops::OpSizes& s) {
  std::string problems;
  const auto check = [&](bool served, const std::string& problem) {
    if (!served) problems += (problems.empty() ? "" : "; ") + problem;
  };
  for (const auto& [name, columns] : {std::pair{"hidden size", s.hidden},
                                      {"width of attention", s.q_dim},
                                      {"feed-forward width", s.ffn},
                                      {"experts' feed-forward width", s.expert_ffn}}) {
    check(columns % kQuantBlock == 0,
          std::string("the ") + name + ", " + std::to_string(columns) + " on a rank, is no multiple of 32");
  }
  check(s.head_dim >= 16 && s.head_dim <= 256 && s.head_dim % 16 == 0,
        "head_dim " + std::to_string(s.head_dim) + " is no multiple of 16 up to 256");
  const int rot_unit = s.interleaved ? 8 : 16;
  check(s.rot_dim >= 0 && s.rot_dim <= s.head_dim && s.rot_dim % rot_unit == 0,
        "the " + std::to_string(s.rot_dim) + " dimensions that rotate are no multiple of " + std::to_string(rot_unit) +
            " up to head_dim");
  check(s.experts <= ops::kMaxExperts && s.experts_used <= ops::kMaxExpertsUsed && s.experts_used <= s.experts,
        std::to_string(s.experts_used) + " of " + std::to_string(s.experts) + " experts for a token, at most " +
            std::to_string(ops::kMaxExpertsUsed) + " of " + std::to_string(ops::kMaxExperts));
  check(s.vocab <= kMaxSampledVocab, "a vocabulary of " + std::to_string(s.vocab) + ", at most " +
                                         std::to_string(kMaxSampledVocab) + " can be sampled from");
  check(s.kv_type == DType::kBF16, "a KV cache of " + std::string(Info(s.kv_type).name) + ", it has to be bf16");
  check(s.block_size >= 16 && (s.block_size & (s.block_size - 1)) == 0,
        "blocks of " + std::to_string(s.block_size) + " tokens, no power of two from 16 on");
  return problems.empty() ? absl::OkStatus() : absl::InvalidArgumentError("on a CUDA device: " + problems);
}

constexpr ops::OpTable kInvariantTable = {.name = "cuda-sm80",
                                          .acts = DType::kBF16,
                                          .supports = Supports,
                                          .quantises = Quantises,
                                          .row_group = linear::kRowTile,
                                          .packed_bytes = LinearBytes,
                                          .pack_rows = PackRows,
                                          .check_sizes = CheckSizes,
                                          .gather_ids = Same<ops::GatherIdsArgs>,
                                          .scatter_ids = Same<ops::ScatterIdsArgs>,
                                          .embed = EmbedIds,
                                          .gather_rows = Gather,
                                          .rms_norm = Norm,
                                          .layer_norm = NormWithMean,
                                          .quantise = nullptr,
                                          .matmul = Multiply,
                                          .rope_kv = Rope,
                                          .attention = Attend,
                                          .attention_workspace = AttentionWorkspace,
                                          .attention_plan_bytes = PlanBytes,
                                          .attention_plan = MakeAttentionPlan,
                                          .glu = Activate,
                                          .route = Same<ops::RouteArgs>,
                                          .expert_matmul = MultiplyExperts,
                                          .join_experts = Join,
                                          .soft_cap = Same<ops::SoftCapArgs>,
                                          .pool = PoolRows,
                                          .sample = Same<ops::SampleArgs>,
                                          .clear_counts = Same<ops::ClearCountsArgs>,
                                          .count_tokens = Same<ops::CountTokensArgs>,
                                          .copy_blocks = Same<ops::CopyBlocksArgs>,
                                          .checksum = Same,
                                          .sum_ranks = Sum,
                                          .all_reduce = Reduce,
                                          .place_columns = Same<ops::PlaceColumnsArgs>,
                                          .dummy_matrix = Same<ops::DummyMatrixArgs>};

constexpr ops::OpTable FastTable() {
  ops::OpTable table = kInvariantTable;
  table.name = "cuda-sm80-fast";
  table.matmul = MultiplyFast;
  table.warms_up = true;
  return table;
}
constexpr ops::OpTable kFastTable = FastTable();

}  // namespace

const ops::OpTable& Table(ops::Numerics numerics) {
  return numerics == ops::Numerics::kFast ? kFastTable : kInvariantTable;
}

}  // namespace shoal::cuda
