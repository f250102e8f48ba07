// The decoder on an accelerator, against the CPU and against itself. Which accelerator, its program is linked with
// (accelerator_factory.h): here the emulated one, in tests/gpu that of the CUDA plug-in.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "common/base/rng.h"
#include "tests/cluster/harness/compare.h"
#include "tests/cluster/harness/rank_set.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::testing {
namespace {

// Uneven heads and blocks: no layout but 1x1 divides them.
TinyModel Tiny(DType matrices) {
  return {.layers = 2,
          .hidden = 64,
          .heads = 6,
          .kv_heads = 3,
          .head_dim = 32,
          .ffn = 160,
          .vocab = 352,
          .matrices = matrices,
          .embedding = matrices};
}

absl::StatusOr<std::unique_ptr<device::Device>> MakeDevice(const ops::OpTable* /*table*/) {
  auto accelerator = cuda::MakeTestAccelerator();
  if (accelerator == nullptr) return absl::UnavailableError("there is no accelerator");
  // Small uploads wrap around; a lazy queue reads what the host has left there too early.
  return device::MakeAcceleratorDevice(std::move(accelerator), 64 << 10);
}

RankSetOptions OnAccelerator() { return {.kv = DType::kBF16, .device = MakeDevice}; }

std::vector<int32_t> Ids(int count, int seed) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(RandomBits(seed, 1, i) % 352);
  return ids;
}

std::shared_ptr<const Shards> Load(DType type, int tp, int pp, const ops::OpTable* table) {
  return LoadShards(OpenTinyModel(Tiny(type)).value(), tp, pp, table, false).value();
}

class AcceleratorTest : public ::testing::TestWithParam<DType> {};

// bf16 activations have 8 bits, and a logit here is a sum over some ten roundings of values about as large as itself.
constexpr float kTolerance = 0.02f;

TEST_P(AcceleratorTest, LogitsAreThoseOfTheCpu) {
  const std::vector<int32_t> ids = Ids(50, 9);
  const auto reference = LoadShards(OpenTinyModel(Tiny(GetParam())).value(), 1, 1, "ref", true).value();
  const auto expected = TeacherForced(*RankSet::Make(reference, {}).value(), ids, {50});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const float largest = std::abs(*std::max_element(expected->begin(), expected->end(),
                                                   [](float a, float b) { return std::abs(a) < std::abs(b); }));
  for (const auto& [tp, pp] : {std::pair(1, 1), std::pair(2, 2)}) {
    SCOPED_TRACE(::testing::Message() << tp << "x" << pp);
    auto ranks = RankSet::Make(Load(GetParam(), tp, pp, cuda::TestTable()), OnAccelerator());
    ASSERT_TRUE(ranks.ok()) << ranks.status();
    const auto logits = TeacherForced(**ranks, ids, {7, 20});
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_LT(LargestDifference(*expected, *logits), kTolerance * largest) << "largest logit " << largest;
  }
}

TEST_P(AcceleratorTest, AnyChunkingAndBatchGivesTheSameBits) {
  const auto shards = Load(GetParam(), 1, 1, cuda::TestTable());
  const std::vector<int32_t> ids = Ids(40, 3);
  const auto at_once = TeacherForced(*RankSet::Make(shards, OnAccelerator()).value(), ids, {40});
  ASSERT_TRUE(at_once.ok()) << at_once.status();
  const auto same = [&](const float* logits) {
    return std::memcmp(logits, at_once->data(), at_once->size() * sizeof(float)) == 0;
  };
  for (const std::vector<int>& chunks : {std::vector<int>{17, 1}, {33, 7}}) {
    const auto logits = TeacherForced(*RankSet::Make(shards, OnAccelerator()).value(), ids, chunks);
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_TRUE(same(logits->data())) << "chunks of " << chunks[0];
  }
  auto ranks = RankSet::Make(shards, OnAccelerator()).value();
  ASSERT_TRUE(ranks->Step({{3, 0, Ids(9, 4)}}, 4).ok());
  const auto logits = ranks->Step({{1, 0, Ids(5, 5)}, {3, 9, Ids(1, 6)}, {2, 0, ids}, {0, 0, Ids(6, 7)}}, 4);
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_TRUE(same(logits->data() + 6 * 352));
}

INSTANTIATE_TEST_SUITE_P(Types, AcceleratorTest,
                         ::testing::Values(DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_1, DType::kF8E4M3,
                                           DType::kI8, DType::kI4),
                         [](const auto& info) { return std::string(Info(info.param).name); });

}  // namespace
}  // namespace shoal::testing
