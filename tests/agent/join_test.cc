#include "worker/agent/join.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::agent {
namespace {

// Joins of one agent with one slot to a group of one rank, of a tiny model.
class JoinTest : public ::testing::Test {
 protected:
  JoinTest() {
    self_.id = "self";
    self_.build_id = "build";
    self_.slots = {{"cpu", 1, int64_t{1} << 30}};
  }
  absl::StatusOr<std::unique_ptr<Joined>> Resolve(
      const testing::TinyModel& tiny, const std::function<void(plan::JoinGroup&)>& change = [](auto&) {}) {
    const std::string path = dir_ / "m.gguf";
    testing::WriteTinyGguf(tiny, path);
    plan::JoinGroup join;
    join.epoch = 1;
    join.model = path;
    join.engine.device = "ref";
    join.ranks = {{0, "self", 0}};
    join.limits = {0, 16, 4, 64, 128, tiny.vocab};
    change(join);
    const auto files = model::OpenModel(
        path, join.engine.load_format == "dummy" ? model::WeightSource::kDummy : model::WeightSource::kFiles);
    EXPECT_TRUE(files.ok()) << files.status();
    join.revision = files->revision;
    join.shard_hash = plan::MakeShardPlan(files->config, 1, 1)->Hash();
    return ResolveJoin(join, self_);
  }
  std::string NumericsId(
      const testing::TinyModel& tiny, const std::function<void(plan::JoinGroup&)>& change = [](auto&) {}) {
    const auto joined = Resolve(tiny, change);
    EXPECT_TRUE(joined.ok()) << joined.status();
    return joined.ok() ? (*joined)->numerics_id : "";
  }

  testing::TempDir dir_;
  plan::AgentInfo self_;
};

TEST_F(JoinTest, NumericsTellWeightTypesAndSourcesApart) {
  const testing::TinyModel f32, q8 = {.matrices = DType::kQ8_0, .embedding = DType::kQ8_0},
                                mixed = {.matrices = DType::kQ4_1, .embedding = DType::kQ8_0};
  EXPECT_EQ("build/tp1xpp1/ref/auto/files-f32/kv-f16/b16", NumericsId(f32));
  EXPECT_EQ("build/tp1xpp1/ref/auto/files-q4_1+q8_0/kv-f16/b16", NumericsId(mixed));
  const auto dummy = [](plan::JoinGroup& j) { j.engine.load_format = "dummy"; };
  const auto other_dummy = [](plan::JoinGroup& j) { j.engine.load_format = "dummy", j.engine.dummy_seed = 5; };
  const auto fp8 = [](plan::JoinGroup& j) { j.engine.quantization = "fp8"; };
  EXPECT_EQ("build/tp1xpp1/ref/auto/files-f32+fp8/kv-f16/b16", NumericsId(f32, fp8));
  EXPECT_EQ(NumericsId(mixed), NumericsId(mixed, fp8)) << "quantised as they are";
  EXPECT_NE((*Resolve(f32, [](auto&) {}))->weights_key, (*Resolve(f32, fp8))->weights_key);
  const auto wide = [](plan::JoinGroup& j) { j.engine.compute_dtype = "f32"; };
  const std::set<std::string> ids = {NumericsId(f32),        NumericsId(q8),         NumericsId(mixed),
                                     NumericsId(f32, dummy), NumericsId(q8, dummy),  NumericsId(q8, other_dummy),
                                     NumericsId(q8, wide),   NumericsId(mixed, wide)};
  EXPECT_EQ(8u, ids.size());
  const testing::TinyModel other_values = {.seed = 2};
  EXPECT_EQ(NumericsId(f32), NumericsId(other_values)) << "that is the revision's to tell";
}

TEST_F(JoinTest, LimitsThatDoNotFitTheModelAreRefused) {
  const auto code = [&](const std::function<void(plan::JoinGroup&)>& change) {
    return Resolve({}, change).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(absl::StatusCode::kOk, code([](auto&) {}));
  EXPECT_EQ(kInvalid, code([](auto& j) { ++j.limits.vocab; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { --j.limits.vocab; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { j.limits.block_size = 32; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { j.limits.block_size = j.engine.block_size = 0; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { j.limits.max_tokens = 0; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { j.limits.max_sequences = 0; }));
  EXPECT_EQ(kInvalid, code([](auto& j) { j.limits.max_model_len = 0; }));
}

TEST_F(JoinTest, AWayToSumUpThatRanksDoNotHaveIsRefused) {
  const auto refusal = [&](const char* way, int tp) {
    const auto joined = Resolve({}, [&](plan::JoinGroup& j) { j.engine.all_reduce = way, j.tp = tp; });
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, joined.status().code()) << joined.status();
    return std::string(joined.status().message());
  };
  EXPECT_EQ("all-reduce ring: there are auto, nccl and one-shot", refusal("ring", 1));
  EXPECT_EQ("--all-reduce one-shot is for ranks on CUDA devices with transport nccl", refusal("one-shot", 2));
  EXPECT_EQ("--all-reduce one-shot is not for 9 tensor ranks; --all-reduce auto is", refusal("one-shot", 9));
  EXPECT_TRUE(Resolve({}, [](plan::JoinGroup& j) { j.engine.all_reduce = "one-shot"; }).ok()) << "one sums up nothing";
}

TEST_F(JoinTest, WorkingMemoryIsTakenFromTheSlots) {
  const auto memory = [&](int32_t max_tokens) {
    const auto joined = Resolve({}, [&](plan::JoinGroup& j) { j.limits.max_tokens = max_tokens; });
    EXPECT_TRUE(joined.ok()) << joined.status();
    return joined.ok() ? ReplyTo(**joined, Shelf())->ranks[0].memory_bytes : -1;
  };
  const int64_t slot = self_.slots[0].memory_bytes, small = memory(64), large = memory(4096);
  EXPECT_LT(small, slot);
  EXPECT_GT(small, slot - (1 << 20));
  // At least the residual stream and its norm, of 64 floats a token, for each more.
  EXPECT_LT(large, small - (4096 - 64) * 2 * 64 * 4);
  EXPECT_EQ(0, memory(1 << 30)) << "no room for anything else";
}

}  // namespace
}  // namespace shoal::agent
