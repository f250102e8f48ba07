// That the suite has all that is in the device's tables: each op a test, which calls it there.
#include <map>
#include <set>
#include <string>

#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

std::set<const void*>& Calls() {
  static std::set<const void*> calls;
  return calls;
}

struct Covered {
  const void* op;    // null: not noted: no op on device memory, or called by other processes
  const char* test;  // "Suite.Name", or a suite
};
template <typename Fn>
const void* Address(Fn function) {
  return reinterpret_cast<const void*>(function);
}

// What a table gains does not compile here before it has its place in the list.
std::map<std::string, Covered> WholeTable(const ops::OpTable& table) {
  const auto& [name, acts, supports, quantises, row_group, packed_bytes, pack_rows, warms_up, check_sizes, gather_ids,
               scatter_ids, embed, gather_rows, rms_norm, layer_norm, quantise, matmul, rope_kv, attention,
               attention_workspace, attention_plan_bytes, attention_plan, glu, route, expert_matmul, join_experts,
               soft_cap, pool, sample, clear_counts, count_tokens, copy_blocks, checksum, sum_ranks, all_reduce,
               place_columns, dummy_matrix] = table;
  const char* const packing = "GpuOps.EmbedReadsBackWhatWasPacked";
  const char* const served = "GpuTable.ServesWhatTheDecoderAsksOf";
  const char* const attending = "GpuAttention.AgreesWithTheReference";
  return {{"name", {nullptr, "GpuTable.IsTheInvariantOneButForProducts"}},
          {"acts", {nullptr, served}},
          {"supports", {nullptr, served}},
          {"quantises", {nullptr, served}},
          {"row_group", {nullptr, packing}},
          {"packed_bytes", {nullptr, packing}},
          {"pack_rows", {nullptr, packing}},
          {"warms_up", {nullptr, "GpuTable.IsTheInvariantOneButForProducts"}},
          {"check_sizes", {nullptr, "GpuTable.RefusesSizesThatNoKernelServes"}},
          {"gather_ids", {Address(gather_ids), "GpuOps.IdsComeFromTheHostOrFromSamples"}},
          {"scatter_ids", {Address(scatter_ids), "GpuOps.IdsComeFromTheHostOrFromSamples"}},
          {"embed", {Address(embed), packing}},
          {"gather_rows", {Address(gather_rows), "GpuOps.GatherRowsIsTheReference"}},
          {"rms_norm", {Address(rms_norm), "GpuOps.RmsNormAgreesWithTheReferenceAndARowAlone"}},
          {"layer_norm", {Address(layer_norm), "GpuOps.LayerNormAgreesWithTheReferenceAndARowAlone"}},
          {"quantise", {Address(quantise), served}},
          {"matmul", {Address(matmul), "GpuMatmul.OddSizesAgreeWithTheReference"}},
          {"rope_kv", {Address(rope_kv), "GpuOps.RopeKvIsTheReference"}},
          {"attention", {Address(attention), attending}},
          {"attention_workspace", {nullptr, attending}},
          {"attention_plan_bytes", {nullptr, attending}},
          {"attention_plan", {nullptr, attending}},
          {"glu", {Address(glu), "GpuOps.GluWritesOverItsGate"}},
          {"route", {Address(route), "GpuExperts.RouteIsTheReference"}},
          {"expert_matmul", {Address(expert_matmul), "GpuExperts.RowsAreThoseOfTheirExpertsMatmul"}},
          {"join_experts", {Address(join_experts), "GpuExperts.JoinIsTheReference"}},
          {"soft_cap", {Address(soft_cap), "GpuOps.SoftCapIsTheReference"}},
          {"pool", {Address(pool), "GpuOps.PoolAgreesWithTheReference"}},
          {"sample", {Address(sample), "GpuOps.SampleIsTheReference"}},
          {"clear_counts", {Address(clear_counts), "GpuCounts.AreTheReference"}},
          {"count_tokens", {Address(count_tokens), "GpuCounts.AreTheReference"}},
          {"copy_blocks", {Address(copy_blocks), "GpuOps.CopyBlocksIsTheReference"}},
          {"checksum", {Address(checksum), "GpuOps.ChecksumTellsEveryBitAndItsPlace"}},
          {"sum_ranks", {Address(sum_ranks), "GpuOps.SumRanksIsTheReference"}},
          {"all_reduce", {nullptr, "GpuAllReduce.RanksOnOneDevice"}},
          {"dummy_matrix", {Address(dummy_matrix), "GpuOps.DummyMatrixIsWhatTheHostMakes"}},
          {"place_columns", {Address(place_columns), "GpuOps.PlaceColumnsIsTheReference"}}};
}

// Null: there is no such test.
const testing::TestInfo* FindTest(const std::string& name) {
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int s = 0; s < all.total_test_suite_count(); ++s) {
    const testing::TestSuite& suite = *all.GetTestSuite(s);
    for (int t = 0; t < suite.total_test_count(); ++t) {
      const testing::TestInfo& test = *suite.GetTestInfo(t);
      if (name == std::string(suite.name()) + "." + test.name()) return &test;
    }
  }
  return nullptr;
}

TEST(GpuTable, EveryOpHasATest) {
  for (const auto& [op, covered] : WholeTable(Table())) EXPECT_NE(FindTest(covered.test), nullptr) << op;
}

// After all tests: those that ran have called their ops.
class OpsWereCalled : public testing::Environment {
 public:
  void SetUp() override { table_ = WholeTable(Table()); }
  void TearDown() override {
    for (const auto& [op, covered] : table_) {
      const testing::TestInfo* const test = FindTest(covered.test);
      if (covered.op == nullptr || test == nullptr || !test->should_run()) continue;
      EXPECT_TRUE(Calls().contains(covered.op)) << covered.test << " has not called " << op;
    }
  }

 private:
  std::map<std::string, Covered> table_;
};
TEST(GpuTable, IsTheInvariantOneButForProducts) {
  const ops::OpTable& invariant = *PluginTable(ops::Numerics::kInvariant);
  const ops::OpTable& fast = *PluginTable(ops::Numerics::kFast);
  EXPECT_EQ(&invariant, &Table());
  EXPECT_NE(fast.name, invariant.name);
  EXPECT_TRUE(fast.warms_up);
  EXPECT_FALSE(invariant.warms_up);
  auto of_fast = WholeTable(fast);
  for (const auto& [op, covered] : WholeTable(invariant)) {
    EXPECT_EQ(of_fast.at(op).op == covered.op, op != "matmul") << op;
  }
}

TEST(GpuTable, RefusesSizesThatNoKernelServes) {
  const ops::OpSizes llama = ops::LlamaSizes();
  EXPECT_TRUE(Table().check_sizes(llama).ok());
  ops::OpSizes odd = llama;
  odd.head_dim = 24;
  odd.kv_type = DType::kF16;
  const absl::Status refused = Table().check_sizes(odd);
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_NE(refused.message().find("head_dim 24"), std::string::npos) << refused;
  EXPECT_NE(refused.message().find("KV cache"), std::string::npos) << refused;
  ops::OpSizes mixture = llama;
  mixture.experts = ops::kMaxExperts + 1;
  mixture.experts_used = 2;
  EXPECT_TRUE(absl::IsInvalidArgument(Table().check_sizes(mixture)));
}

}  // namespace

void NoteCall(const void* op) { Calls().insert(op); }
std::unique_ptr<testing::Environment> CheckCalls() { return std::make_unique<OpsWereCalled>(); }

}  // namespace shoal::gpu
