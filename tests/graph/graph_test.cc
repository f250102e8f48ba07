// The decoder's parts, and what it refuses at its making.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/cluster/harness/rank_set.h"
#include "worker/graph/operation.h"
#include "worker/graph/rope_table.h"
#include "worker/graph/scratch.h"

namespace shoal::graph {
namespace {

namespace testing = shoal::testing;

using testing::LoadShards;
using testing::OpenTinyModel;
using testing::RankSet;
using testing::Shards;

TEST(OperationTest, EveryOperationHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (uint32_t op = 0; op <= static_cast<uint32_t>(Operation::kSend); ++op) names.insert(OperationName(op));
  EXPECT_EQ(names.size(), static_cast<size_t>(Operation::kSend) + 1);
  EXPECT_EQ(names.count("unknown"), 0u);
  EXPECT_EQ(OperationName(static_cast<uint32_t>(Operation::kAttention)), "attention");
  EXPECT_EQ(OperationName(static_cast<uint32_t>(Operation::kSend)), "sending activations to the next stage");
  EXPECT_EQ(OperationName(999), "unknown");
}

TEST(RopeTableTest, HoldsTheAnglesOfEachPosition) {
  model::Rope rope;
  rope.theta = 10000;
  rope.dim = 8;
  const RopeTable table(rope, 64);
  ASSERT_EQ(table.width(), 4);
  std::vector<float> cos(12), sin(12);
  table.Fill(std::vector<int32_t>{5, 0, 70000}, cos.data(), sin.data());
  const int positions[] = {5, 0, 70000};
  for (int t = 0; t < 3; ++t) {
    for (int i = 0; i < 4; ++i) {
      const double angle = positions[t] / std::pow(10000.0, 2.0 * i / 8);
      EXPECT_FLOAT_EQ(cos[t * 4 + i], static_cast<float>(std::cos(angle)));
      EXPECT_NEAR(sin[t * 4 + i], std::sin(angle), 1e-7);
    }
  }
}

TEST(RopeTableTest, LongRopeHasItsFactorsAndItsAmplitude) {
  model::Rope rope;
  rope.dim = 4;
  rope.scaling = model::RopeScaling::kLongRope;
  rope.original_max_position = 64;
  rope.short_factors = {1, 2};
  rope.long_factors = {4, 8};
  rope.amplitude = 1.25;
  const std::vector<int32_t> positions = {3};
  for (const int context : {64, 65}) {
    float cos[2], sin[2];
    RopeTable(rope, context).Fill(positions, cos, sin);
    const std::vector<double>& factors = context == 64 ? rope.short_factors : rope.long_factors;
    for (int i = 0; i < 2; ++i) {
      const double angle = 3 / std::pow(10000.0, i / 2.0) / factors[static_cast<size_t>(i)];
      EXPECT_NEAR(cos[i], 1.25 * std::cos(angle), 1e-6) << context;
      EXPECT_NEAR(sin[i], 1.25 * std::sin(angle), 1e-6) << context;
    }
  }
}

TEST(ScratchTest, ArraysAreAlignedAndApart) {
  const auto device = device::MakeHostDevice(ops::FindOpTable("ref").value(), 1);
  const ScratchShape shape = {.tokens = 3,
                              .samples = 2,
                              .hidden = 33,
                              .q_dim = 5,
                              .kv_dim = 7,
                              .ffn = 65,
                              .local_vocab = 9,
                              .vocab = 0,
                              .attention_workspace = 1};
  const Scratch s = Scratch::Create(*device, shape).value();
  EXPECT_EQ(s.memory.size(), static_cast<size_t>(ScratchBytes(shape)));
  std::set<const void*> starts;
  for (const void* p : {s.x.data(), s.h.data(), s.q.data(), static_cast<void*>(s.workspace),
                        static_cast<void*>(s.acts.q), static_cast<void*>(s.acts.scale)}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    starts.insert(p);
  }
  EXPECT_EQ(starts.size(), 6u);
  s.acts.q[3 * 96 - 1] = 1;  // the widest input, rounded up to whole blocks
  s.x[3 * 33 - 1] = 2;
  EXPECT_EQ(s.acts.q[3 * 96 - 1], 1);
}

class DecoderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    shards_ = LoadShards(OpenTinyModel({}).value(), 1, 1, "cpu", false).value();
    ranks_ = RankSet::Make(shards_, {}).value();
    weights_ = shards_->weights[0];
    shard_ = shards_->plan.ranks[0];
    kv_ = ranks_->rank(0).kv;
  }
  absl::StatusOr<std::unique_ptr<Decoder>> Create() {
    return Decoder::Create(shards_->model.config, shard_, options_, ranks_->rank(0).device.get(), &weights_, kv_,
                           ranks_->group().rank(0).tensor.get(), ranks_->rank(0).operations.get());
  }
  void ExpectRefused(const std::string& why) {
    const absl::Status status = Create().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.ToString().find(why), std::string::npos) << status;
  }

  std::shared_ptr<const Shards> shards_;
  std::unique_ptr<RankSet> ranks_;
  weights::ModelWeights weights_;
  plan::RankShard shard_;
  std::vector<ops::KvLayer> kv_;
  DecoderOptions options_ = {.max_tokens = 4, .max_samples = 4, .max_context = 64};
};

TEST_F(DecoderTest, RefusesWeightsOfAnotherShape) {
  ASSERT_TRUE(Create().ok());
  weights_.layers[1].down.k -= 32;
  ExpectRefused("down is 64 x 64 on this rank, 64 x 96 is needed");
}

TEST_F(DecoderTest, RefusesMissingWeights) {
  weights_.layers[0].ffn_norm = {};
  ExpectRefused("a norm is missing");
  weights_ = shards_->weights[0];
  weights_.layers.pop_back();
  ExpectRefused("weights of 1 layers");
  weights_ = shards_->weights[0];
  weights_.head.data = nullptr;
  ExpectRefused("head");
}

TEST_F(DecoderTest, RefusesACacheOfAnotherDepth) {
  kv_.pop_back();
  ExpectRefused("a cache of 1");
}

TEST_F(DecoderTest, RefusesAChannelOfAnotherRank) {
  shard_.tp_index = 1;
  ExpectRefused("another tensor rank");
}

// Before anything is allocated or run.
TEST_F(DecoderTest, RefusesSizesThatItsBackendDoesNotServe) {
  ops::OpTable table = ranks_->rank(0).device->table();
  static ops::OpSizes asked;
  table.check_sizes = [](const ops::OpSizes& s) {
    asked = s;
    return absl::InvalidArgumentError("no such sizes");
  };
  const auto device = device::MakeHostDevice(&table, 1);
  const absl::Status status = Decoder::Create(shards_->model.config, shard_, options_, device.get(), &weights_, kv_,
                                              ranks_->group().rank(0).tensor.get(), ranks_->rank(0).operations.get())
                                  .status();
  EXPECT_EQ(status, absl::InvalidArgumentError("no such sizes"));
  const model::ModelConfig& config = shards_->model.config;
  EXPECT_EQ(asked.hidden, config.hidden);
  EXPECT_EQ(asked.q_dim, config.heads * config.head_dim);
  EXPECT_EQ(asked.ffn, config.ffn);
  EXPECT_EQ(asked.head_dim, config.head_dim);
  EXPECT_EQ(asked.rot_dim, config.rope.dim);
  EXPECT_EQ(asked.vocab, config.vocab);
  EXPECT_EQ(asked.kv_type, kv_[0].dtype);
  EXPECT_EQ(asked.block_size, kv_[0].block_size);
}

TEST_F(DecoderTest, RefusesWeightsThatNothingQuantisesFor) {
  ops::OpTable table = ranks_->rank(0).device->table();
  table.quantise = nullptr;
  table.quantises = [](DType) { return true; };
  const auto device = device::MakeHostDevice(&table, 1);
  const absl::Status status = Decoder::Create(shards_->model.config, shard_, options_, device.get(), &weights_, kv_,
                                              ranks_->group().rank(0).tensor.get(), ranks_->rank(0).operations.get())
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST_F(DecoderTest, RefusesABatchThatDoesNotFit) {
  auto decoder = Create();
  ASSERT_TRUE(decoder.ok());
  const std::vector<int32_t> positions(5);
  const std::vector<int64_t> slots(5);
  const Batch batch = {
      .tokens = 5, .sources = {}, .positions = positions, .slots = slots, .sequences = {}, .sample_rows = {}};
  EXPECT_EQ((*decoder)->Begin(batch).code(), absl::StatusCode::kInvalidArgument);
}

// Matrices of several types in one layer, as mixed GGUF files have them: close to the same model in f32.
TEST_F(DecoderTest, TypesMayDifferWithinALayer) {
  testing::TinyModel tiny;
  tiny.matrices = DType::kF16;
  const auto f16 = LoadShards(OpenTinyModel(tiny).value(), 1, 1, "cpu", false).value();
  tiny.matrices = DType::kQ8_0;
  const auto q8 = LoadShards(OpenTinyModel(tiny).value(), 1, 1, "cpu", false).value();
  auto mixed = std::make_shared<Shards>();
  mixed->model = q8->model;
  mixed->plan = q8->plan;
  mixed->table = q8->table;
  mixed->weights.push_back(q8->weights[0]);
  for (weights::LayerWeights& w : mixed->weights[0].layers) {
    const weights::LayerWeights& other = f16->weights[0].layers[&w - mixed->weights[0].layers.data()];
    w.k = other.k;
    w.up = other.up;
    w.o = other.o;
  }
  const std::vector<int32_t> ids = {5, 77, 130, 9, 200, 31};
  const auto exact = TeacherForced(*RankSet::Make(shards_, {}).value(), ids, {6});
  const auto got = TeacherForced(*RankSet::Make(mixed, {}).value(), ids, {6});
  ASSERT_TRUE(exact.ok() && got.ok()) << got.status();
  float largest = 0, difference = 0;
  for (size_t i = 0; i < exact->size(); ++i) {
    largest = std::max(largest, std::fabs((*exact)[i]));
    difference = std::max(difference, std::fabs((*exact)[i] - (*got)[i]));
  }
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 0.03f * largest);
}

}  // namespace
}  // namespace shoal::graph
