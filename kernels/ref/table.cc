// Tested by tests/kernels/backends_test.cc
#include <cstring>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

bool Supports(DType) { return true; }

size_t PackedBytes(DType t, int64_t n, int64_t k) { return RowBytes(t, k) * static_cast<size_t>(n); }

void PackRows(DType t, const void* src, int64_t row_begin, int64_t rows, int64_t /*n*/, int64_t k, void* dst) {
  const size_t row = RowBytes(t, k);
  std::memcpy(static_cast<char*>(dst) + row * static_cast<size_t>(row_begin), src, row * static_cast<size_t>(rows));
}

int64_t NoWorkspace(int, int, int, int, int) { return 0; }

}  // namespace

const OpTable& Table() {
  static constexpr OpTable kTable = {.name = "ref",
                                     .acts = DType::kF32,
                                     .supports = Supports,
                                     .quantises = IsQuantised,
                                     .row_group = 1,
                                     .packed_bytes = PackedBytes,
                                     .pack_rows = PackRows,
                                     .check_sizes = nullptr,
                                     .gather_ids = GatherIdsOnHost,
                                     .scatter_ids = ScatterIdsOnHost,
                                     .embed = Embed,
                                     .gather_rows = GatherRowsOnHost,
                                     .rms_norm = RmsNorm,
                                     .layer_norm = LayerNorm,
                                     .quantise = Quantise,
                                     .matmul = Matmul,
                                     .rope_kv = RopeKv,
                                     .attention = Attention,
                                     .attention_workspace = NoWorkspace,
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
  return kTable;
}

}  // namespace shoal::ops::ref
