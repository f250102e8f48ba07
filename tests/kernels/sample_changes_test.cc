// Rows with penalties, masks and log-probabilities, on the tables of real arithmetic.
#include "tests/kernels/kernel_test_util.h"
#include "tests/kernels/sample_contract.h"

namespace shoal::ops {
namespace {

SampleResults RunOn(const OpTable& table, const SampleBatch& batch, int threads) {
  SampleResults out(batch.rows);
  const std::vector<float> before = batch.logits;
  const auto stream = MakeCpuStream(threads);
  EXPECT_TRUE(table.sample(*stream, batch.Args(out.tokens.data(), out.logprobs.data())).ok());
  ExpectSameBits(before, batch.logits);
  return out;
}

std::vector<SampleKind> Kinds() {
  std::vector<const OpTable*> tables = FastTables();
  tables.push_back(&RefTable());
  std::vector<SampleKind> kinds;
  for (const OpTable* t : tables) {
    kinds.push_back({NameOf(*t), [t](const SampleBatch& batch) {
                       SampleResults out = RunOn(*t, batch, 1);
                       ExpectSameBits(out, RunOn(*t, batch, 3));
                       return out;
                     }});
  }
  return kinds;
}
INSTANTIATE_TEST_SUITE_P(Tables, SampleContract, testing::ValuesIn(Kinds()),
                         [](const auto& info) { return info.param.name; });

TEST(SampleChanges, InstructionSetsAgreeToTheBit) {
  const std::vector<const OpTable*> tables = FastTables();
  const SampleBatch batch = MakeSampleBatch(3001, 60, 7);
  const SampleResults first = RunOn(*tables[0], batch, 2);
  for (const OpTable* t : tables) ExpectSameBits(first, RunOn(*t, batch, 2));
}

}  // namespace
}  // namespace shoal::ops
