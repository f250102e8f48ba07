// Tested by tests/kernels/backends_test.cc
#include "kernels/null/null.h"

namespace shoal::ops::null {
namespace {

bool Supports(DType) { return true; }
size_t PackedBytes(DType, int64_t, int64_t) { return 0; }
void PackRows(DType, const void*, int64_t, int64_t, int64_t, int64_t, void*) {}
int64_t NoWorkspace(int, int, int, int, int) { return 0; }

}  // namespace

const OpTable& Table() {
  static constexpr OpTable kTable = {.name = "null",
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
                                     .join_experts = JoinExperts,
                                     .soft_cap = SoftCap,
                                     .pool = Pool,
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

}  // namespace shoal::ops::null
