// Tested by tests/kernels/backends_test.cc
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {
namespace {

// Op tables hold plain function pointers, so each set gets its own thin layer.
template <const KernelSet& kSet>
struct Bound {
  static size_t PackedBytes(DType t, int64_t n, int64_t k) { return cpu::PackedBytes(kSet.lanes, t, n, k); }
  static void PackRows(DType t, const void* src, int64_t row_begin, int64_t rows, int64_t, int64_t k, void* dst) {
    cpu::PackRows(kSet.lanes, t, src, row_begin, rows, k, dst);
  }
  static absl::Status Embed(Stream& s, const EmbedArgs& a) { return cpu::Embed(kSet, s, a); }
  static absl::Status RmsNorm(Stream& s, const RmsNormArgs& a) { return cpu::RmsNorm(kSet, s, a); }
  static absl::Status LayerNorm(Stream& s, const LayerNormArgs& a) { return cpu::LayerNorm(kSet, s, a); }
  static absl::Status Quantise(Stream& s, const QuantiseArgs& a) { return cpu::Quantise(kSet, s, a); }
  static absl::Status Matmul(Stream& s, const MatmulArgs& a) { return cpu::Matmul(kSet, s, a); }
  static absl::Status RopeKv(Stream& s, const RopeKvArgs& a) { return cpu::RopeKv(kSet, s, a); }
  static absl::Status Attention(Stream& s, const AttentionArgs& a) { return cpu::Attention(kSet, s, a); }
  static absl::Status Sample(Stream& s, const SampleArgs& a) { return cpu::Sample(kSet, s, a); }
  static absl::Status Glu(Stream& s, const GluArgs& a) { return cpu::Glu(kSet, s, a); }
  static absl::Status ExpertMatmul(Stream& s, const ExpertMatmulArgs& a) { return cpu::ExpertMatmul(kSet, s, a); }
  static absl::Status SoftCap(Stream& s, const SoftCapArgs& a) { return cpu::SoftCap(kSet, s, a); }

  static const OpTable& Table() {
    static const OpTable table = {.name = kSet.name,
                                  .acts = DType::kF32,
                                  .supports = [](DType) { return true; },
                                  .quantises = IsQuantised,
                                  .row_group = kSet.lanes,
                                  .packed_bytes = PackedBytes,
                                  .pack_rows = PackRows,
                                  .check_sizes = nullptr,
                                  .gather_ids = GatherIdsOnHost,
                                  .scatter_ids = ScatterIdsOnHost,
                                  .embed = Embed,
                                  .gather_rows = GatherRows,
                                  .rms_norm = RmsNorm,
                                  .layer_norm = LayerNorm,
                                  .quantise = Quantise,
                                  .matmul = Matmul,
                                  .rope_kv = RopeKv,
                                  .attention = Attention,
                                  .attention_workspace = AttentionWorkspace,
                                  .attention_plan_bytes = nullptr,
                                  .attention_plan = nullptr,
                                  .glu = Glu,
                                  .route = RouteOnHost,
                                  .expert_matmul = ExpertMatmul,
                                  .join_experts = JoinExpertsOnHost,
                                  .soft_cap = SoftCap,
                                  .pool = PoolOnHost,
                                  .sample = Sample,
                                  .clear_counts = ClearCountsOnHost,
                                  .count_tokens = CountTokensOnHost,
                                  .copy_blocks = CopyBlocks,
                                  .checksum = ChecksumOnHost,
                                  .sum_ranks = SumRanksOnHost,
                                  .place_columns = PlaceColumnsOnHost,
                                  .dummy_matrix = DummyMatrixOnHost<Table>};
    return table;
  }
};

bool Always() { return true; }
#if defined(__x86_64__)
// clang 16's __builtin_cpu_supports does not know this one.
bool HasF16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c(); }
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

std::span<const Choice> Choices() {
  static const Choice choices[] = {
    {&Bound<kScalarSet>::Table(), Always},
#if defined(__x86_64__)
    {&Bound<kAvx2Set>::Table(), HasAvx2},
    {&Bound<kAvx512Set>::Table(), HasAvx512},
#endif
  };
  return choices;
}

// Below this many elements a thread's wake-up costs more than it saves; measured with bench_kernels.
int TaskCount(const Stream& stream, int64_t work, int64_t pieces) {
  constexpr int64_t kWorkPerTask = 16 << 10;
  if (stream.threads() == 1) return pieces > 0 ? 1 : 0;
  const int64_t most = std::min<int64_t>(pieces, static_cast<int64_t>(stream.threads()) * 4);
  return pieces > 0 ? static_cast<int>(std::clamp<int64_t>(work / kWorkPerTask, 1, most)) : 0;
}

}  // namespace shoal::ops::cpu
