#include <gtest/gtest.h>

#include "common/plan/wire_setup.h"

namespace shoal::plan {
namespace {

RankSetup Example() {
  RankSetup s;
  s.rank = 5;
  s.tp = 3;
  s.pp = 2;
  s.epoch = 9;
  s.coordinator = 0xffffffffffffffffull;
  s.model.architecture = "llama";
  s.model.layers = 30;
  s.model.hidden = 576;
  s.model.heads = 9;
  s.model.kv_heads = 3;
  s.model.head_dim = 64;
  s.model.ffn = 1536;
  s.model.vocab = 49152;
  s.model.max_position = 8192;
  s.model.norm_eps = 1e-6f;
  s.model.embedding_scale = 1.5f;
  s.model.attention_scale = 0.125f;
  s.model.activation = model::Activation::kGeluTanh;
  s.model.tied_embeddings = true;
  s.model.rope = {.theta = 500000.1,
                  .dim = 64,
                  .interleaved = true,
                  .scaling = model::RopeScaling::kLlama3,
                  .factor = 32.1,
                  .low_freq_factor = 1.1,
                  .high_freq_factor = 4.1,
                  .original_max_position = 4096,
                  .short_factors = {1.1, 2.2},
                  .long_factors = {3.3, 4.4, 5.5},
                  .amplitude = 1.01};
  s.model.other_rope.theta = 17;
  s.model.task = model::Task::kEmbed;
  s.model.kinds = {{.window = 512}, {.other_rope = true}, {.has_experts = true}};
  s.model.norm = model::Norm::kLayer;
  s.model.norm_place = model::NormPlace::kAfter;
  s.model.final_norm = false;
  s.model.qk_norm = true;
  s.model.norm_weight_bias = 1;
  s.model.qkv_bias = s.model.output_bias = s.model.ffn_bias = s.model.norm_bias = true;
  s.model.causal = false;
  s.model.attention_soft_cap = 50;
  s.model.gated = false;
  s.model.experts = {.count = 8, .used = 2, .ffn = 96, .renormalise = true};
  s.model.embedding_norm = s.model.learned_positions = s.model.token_types = true;
  s.model.logit_scale = 0.5f;
  s.model.logit_soft_cap = 30;
  s.model.pooling = model::Pooling::kLast;
  s.model.normalise = false;
  s.model.bos_token = 3;
  s.model.eos_tokens = {4, 5};
  s.engine = {"ref", "f32", "bf16", "dummy", 77, "shm", 32, "fp8", "fast"};
  s.limits = {100, 32, 8, 512, 2048, 49152};
  s.threads = 4;
  s.host = "::1";
  s.device_index = 6;
  s.weights_bytes = int64_t{70} << 30;
  s.checked_steps = 17;
  s.kv_bytes = int64_t{40} << 30;
  s.planned_device_bytes = int64_t{70} << 30;
  return s;
}

TEST(Setup, SurvivesTheTrip) {
  const RankSetup in = Example();
  const auto out = DecodeSetup(EncodeSetup(in));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(EncodeSetup(in), EncodeSetup(*out));
  EXPECT_EQ(5, out->rank);
  EXPECT_EQ(3, out->tp);
  EXPECT_EQ(2, out->pp);
  EXPECT_EQ(9u, out->epoch);
  EXPECT_EQ(in.coordinator, out->coordinator);
  EXPECT_EQ(in.model, out->model);  // to the bit
  EXPECT_EQ("ref", out->engine.device);
  EXPECT_EQ("bf16", out->engine.kv_dtype);
  EXPECT_EQ(77u, out->engine.dummy_seed);
  EXPECT_EQ(in.engine.quantization, out->engine.quantization);
  EXPECT_EQ(in.engine.numerics, out->engine.numerics);
  EXPECT_EQ(32, out->engine.block_size);
  EXPECT_EQ(512, out->limits.max_tokens);
  EXPECT_EQ(49152, out->limits.vocab);
  EXPECT_EQ(4, out->threads);
  EXPECT_EQ("::1", out->host);
  EXPECT_EQ(6, out->device_index);
  EXPECT_EQ(int64_t{70} << 30, out->weights_bytes);
  EXPECT_EQ(17, out->checked_steps);
  EXPECT_EQ(int64_t{40} << 30, out->kv_bytes);
  EXPECT_EQ(int64_t{70} << 30, out->planned_device_bytes);
}

TEST(Setup, NonsenseIsRefused) {
  EXPECT_EQ(absl::StatusCode::kDataLoss, DecodeSetup("\xff\xff").status().code());
  EXPECT_FALSE(DecodeSetup("").ok());
  const auto refused = [](void (*spoil)(RankSetup&)) {
    RankSetup s = Example();
    spoil(s);
    return DecodeSetup(EncodeSetup(s)).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](RankSetup& s) { s.rank = 6; }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.rank = -1; }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.tp = 0; }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.threads = 0; }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.limits.blocks = 0; }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.model.activation = static_cast<model::Activation>(9); }));
  EXPECT_TRUE(refused([](RankSetup& s) { s.model.rope.scaling = static_cast<model::RopeScaling>(9); }));
}

}  // namespace
}  // namespace shoal::plan
