#include "worker/rank/shape.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "common/plan/ring.h"
#include "common/plan/wire.h"

namespace shoal::rank {
namespace {

TEST(ChannelShape, HoldsTheLargestPlan) {
  model::ModelConfig model;
  model.hidden = 64;
  const plan::MirrorLimits limits{.blocks = 8, .block_size = 16, .max_sequences = 5, .max_tokens = 32};
  const comm::GroupShape shape = ChannelShape(model, limits, 3, 2);
  EXPECT_EQ(3, shape.tp);
  EXPECT_EQ(2, shape.pp);
  EXPECT_EQ(32 * 64 * 4, shape.max_activation_bytes);
  EXPECT_EQ(5, shape.max_samples);
}

TEST(ChannelShape, MailboxHasMoreSlotsThanPlansInFlight) {
  for (int pp = 1; pp <= 20; ++pp) {
    const int slots = ChannelShape({}, {}, 1, pp).mailbox_slots;
    EXPECT_GT(slots, 2 * pp + 1);
    EXPECT_EQ(0, slots & (slots - 1));  // a power of two, as the channels ask
  }
}

TEST(ResultRing, HoldsTheAnswerToTheLargestPlan) {
  EXPECT_EQ(1 << 20, ResultRingCapacity({.max_sequences = 64}));
  const plan::MirrorLimits limits{.max_sequences = 100000};
  plan::StepResult result = {
      .stamp = {~0ull, ~0ull, ~0ull}, .rank = 1 << 20, .rows = {}, .times = {}, .checksum = ~0ull, .error = {}};
  for (int32_t i = 0; i < limits.max_sequences; ++i) {
    constexpr int32_t kLongest = std::numeric_limits<int32_t>::max();
    const std::vector<int32_t> top_ids(plan::kMaxTopLogprobs, kLongest);
    result.rows.push_back({~0ull,
                           {kLongest},
                           plan::RowError::kNotFinite,
                           {{kLongest, -1, kLongest, top_ids, std::vector<float>(plan::kMaxTopLogprobs, -1)}}});
  }
  const auto capacity = static_cast<size_t>(ResultRingCapacity(limits));
  std::vector<std::byte> memory(plan::RingBytes(capacity));
  auto ring = plan::RingWriter::Create(memory);
  ASSERT_TRUE(ring.ok()) << ring.status();
  const std::string bytes = plan::EncodeResult(result);
  EXPECT_GT(bytes.size(), size_t{1} << 20);
  EXPECT_TRUE(ring->Append(plan::RecordKind::kResult, result.stamp, bytes).ok());
}

TEST(ResolveNumerics, AutoFollowsTheComputeType) {
  plan::EngineOptions engine;
  auto numerics = ResolveNumerics(engine);
  ASSERT_TRUE(numerics.ok());
  EXPECT_FALSE(numerics->compute_f32);
  EXPECT_EQ(DType::kF16, numerics->kv);
  engine.compute_dtype = "f32";
  numerics = ResolveNumerics(engine);
  ASSERT_TRUE(numerics.ok());
  EXPECT_TRUE(numerics->compute_f32);
  EXPECT_EQ(DType::kF32, numerics->kv);
  engine.kv_dtype = "bf16";
  EXPECT_EQ(DType::kBF16, ResolveNumerics(engine)->kv);
}

TEST(ResolveNumerics, OnCudaThereIsBf16Alone) {
  plan::EngineOptions engine;
  engine.device = "cuda";
  const auto numerics = ResolveNumerics(engine);
  ASSERT_TRUE(numerics.ok()) << numerics.status();
  EXPECT_FALSE(numerics->compute_f32);
  EXPECT_EQ(DType::kBF16, numerics->kv);
  engine.kv_dtype = "bf16";
  EXPECT_TRUE(ResolveNumerics(engine).ok());
  engine.kv_dtype = "f16";
  EXPECT_NE(std::string::npos, ResolveNumerics(engine).status().message().find("f16 on a CUDA device"));
  engine.kv_dtype = "auto";
  engine.compute_dtype = "f32";
  EXPECT_NE(std::string::npos, ResolveNumerics(engine).status().message().find("f32 on a CUDA device"));
}

TEST(ResolveNumerics, FastIsAModeOfCudaAndAnotherNameForTheOnlyOneElsewhere) {
  for (const char* device : {"cuda", "cpu", "null"}) {
    plan::EngineOptions engine;
    engine.device = device;
    EXPECT_EQ(ops::Numerics::kInvariant, ResolveNumerics(engine)->mode);
    engine.numerics = "fast";
    const auto fast = ResolveNumerics(engine);
    ASSERT_TRUE(fast.ok()) << fast.status();
    EXPECT_EQ(std::string(device) == "cuda" ? ops::Numerics::kFast : ops::Numerics::kInvariant, fast->mode) << device;
    engine.numerics = "quick";
    EXPECT_NE(std::string::npos, ResolveNumerics(engine).status().message().find("numerics quick")) << device;
  }
}

TEST(ResolveNumerics, NamesWhatItDoesNotKnow) {
  plan::EngineOptions engine;
  engine.compute_dtype = "f64";
  EXPECT_NE(std::string::npos, ResolveNumerics(engine).status().message().find("f64"));
  engine.compute_dtype = "auto";
  for (const char* kv : {"q8_0", "int8", ""}) {
    engine.kv_dtype = kv;
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, ResolveNumerics(engine).status().code()) << kv;
  }
}

}  // namespace
}  // namespace shoal::rank
