#include "common/model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>

namespace shoal::model {
namespace {

ModelConfig Good() {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 64;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.ffn = 96;
  c.vocab = 100;
  c.max_position = 128;
  c.attention_scale = 0.25f;
  c.rope.dim = 16;
  return c;
}

void WithExperts(ModelConfig& c) {
  c.kinds = {{.has_experts = true}, {.has_experts = true}};
  c.experts = {.count = 4, .used = 2, .ffn = 32, .renormalise = true};
  c.ffn = 0;
}

void WithLongRope(ModelConfig& c) {
  c.rope.scaling = RopeScaling::kLongRope;
  c.rope.original_max_position = 64;
  c.rope.short_factors.assign(8, 1.0);
  c.rope.long_factors.assign(8, 2.0);
}

TEST(ModelConfig, AcceptsAConsistentOne) { EXPECT_TRUE(CheckConfig(Good()).empty()); }

TEST(ModelConfig, ReportsEveryProblemAtOnce) {
  ModelConfig c = Good();
  c.layers = 0;
  c.ffn = 100;
  c.kv_heads = 3;
  c.norm_eps = 0;
  c.eos_tokens = {5, 100};
  const std::vector<std::string> problems = CheckConfig(c);
  EXPECT_EQ(problems.size(), 5u);
}

TEST(ModelConfig, RefusesEachBadValue) {
  const auto refused = [](auto change) {
    ModelConfig c = Good();
    change(c);
    return !CheckConfig(c).empty();
  };
  EXPECT_TRUE(refused([](ModelConfig& c) { c.hidden = 48; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.hidden = -64; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.hidden = 1 << 30; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.heads = c.kv_heads = 5; }));  // 80 columns: no multiple of 32
  EXPECT_TRUE(refused([](ModelConfig& c) { c.vocab = 0; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.max_position = 0; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.bos_token = 100; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.attention_scale = 0; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.rope.dim = 15; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.rope.dim = 32; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.rope.theta = NAN; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.rope.scaling = RopeScaling::kLinear, c.rope.factor = 0.5; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.rope.scaling = RopeScaling::kLlama3; }));  // no original context
  EXPECT_TRUE(refused([](ModelConfig& c) { c.kinds.resize(1); })) << "two layers";
  EXPECT_TRUE(refused([](ModelConfig& c) { c.kinds = {{.window = -1}, {}}; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.kinds = {{.has_experts = true}, {}}; })) << "of what size?";
  EXPECT_TRUE(refused([](ModelConfig& c) { c.experts = {.count = 4, .used = 2, .ffn = 32}; })) << "of no layer";
  EXPECT_TRUE(refused([](ModelConfig& c) { WithExperts(c), c.experts.used = 5; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { WithExperts(c), c.experts.count = 513; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { WithExperts(c), c.experts.ffn = 33; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { WithExperts(c), c.ffn = 96; })) << "no layer has it";
  EXPECT_TRUE(refused([](ModelConfig& c) { WithExperts(c), c.ffn_bias = true; }));
  EXPECT_FALSE(refused([](ModelConfig& c) { WithExperts(c); }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.attention_soft_cap = -1; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.logit_soft_cap = NAN; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.logit_scale = 0; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.norm_bias = true; })) << "of RMS norms";
  EXPECT_TRUE(refused([](ModelConfig& c) { c.norm = Norm::kLayer, c.qk_norm = true; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.task = Task::kEmbed, c.tied_embeddings = true; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { c.kinds = {{.other_rope = true}, {}}; })) << "of other dimensions";
  EXPECT_FALSE(refused([](ModelConfig& c) { c.kinds = {{.other_rope = true}, {}}, c.other_rope = c.rope; }));
  EXPECT_FALSE(refused([](ModelConfig& c) { c.rope.dim = 0; })) << "no rotation";
  EXPECT_TRUE(refused([](ModelConfig& c) { WithLongRope(c), c.rope.long_factors.pop_back(); }));
  EXPECT_TRUE(refused([](ModelConfig& c) { WithLongRope(c), c.rope.short_factors[3] = 0; }));
  EXPECT_TRUE(refused([](ModelConfig& c) { WithLongRope(c), c.rope.amplitude = 0; }));
  EXPECT_FALSE(refused([](ModelConfig& c) { WithLongRope(c); }));
  EXPECT_FALSE(refused([](ModelConfig& c) { c.vocab = 131; })) << "a vocabulary needs no whole blocks";
}

TEST(Rope, PlainAndLinear) {
  Rope r;
  r.theta = 10000;
  r.dim = 4;
  EXPECT_EQ(r.InverseFrequencies(0).size(), 2u);
  EXPECT_DOUBLE_EQ(r.InverseFrequencies(0)[0], 1.0);
  EXPECT_DOUBLE_EQ(r.InverseFrequencies(0)[1], 0.01);
  r.scaling = RopeScaling::kLinear;
  r.factor = 4;
  EXPECT_DOUBLE_EQ(r.InverseFrequencies(0)[1], 0.0025);
}

// Llama 3.1 8B: theta 500,000, 128 dimensions, factor 8, low 1, high 4, original context 8,192. Expected values worked
// out from the published rule: frequencies with wavelength < 2,048 stay, > 8,192 are divided by 8, blended between.
TEST(Rope, Llama3ScalesByWavelength) {
  Rope r;
  r.theta = 500000;
  r.dim = 128;
  const std::vector<double> plain = r.InverseFrequencies(0);
  r.scaling = RopeScaling::kLlama3;
  r.factor = 8;
  r.original_max_position = 8192;
  const std::vector<double> scaled = r.InverseFrequencies(0);
  int kept = 0, divided = 0, blended = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 2048) {
      ++kept;
      EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
    } else if (wavelength > 8192) {
      ++divided;
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
    } else {
      ++blended;
      const double smooth = (8192 / wavelength - 1) / 3;
      EXPECT_NEAR(scaled[i], ((1 - smooth) / 8 + smooth) * plain[i], 1e-12);
    }
  }
  EXPECT_EQ(kept, 29);  // wavelength 2 pi 500000^(i/64) reaches 2,048 at i = 28.2 and 8,192 at i = 35.0
  EXPECT_EQ(blended, 6);
  EXPECT_EQ(divided, 29);
}

TEST(Rope, LongRopeDividesByTheFactorsOfTheContextThatIsServed) {
  Rope r;
  r.dim = 4;
  r.scaling = RopeScaling::kLongRope;
  r.original_max_position = 100;
  r.short_factors = {1, 2};
  r.long_factors = {4, 5};
  EXPECT_EQ(r.InverseFrequencies(100), (std::vector<double>{1, 0.005}));
  EXPECT_EQ(r.InverseFrequencies(101), (std::vector<double>{0.25, 0.002}));
}

TEST(ModelConfig, HeadsShareKvHeadsInOrder) {
  ModelConfig c;
  c.heads = 9;
  c.kv_heads = 3;
  EXPECT_EQ(KvHeadOf(c, 0), 0);
  EXPECT_EQ(KvHeadOf(c, 2), 0);
  EXPECT_EQ(KvHeadOf(c, 3), 1);
  EXPECT_EQ(KvHeadOf(c, 8), 2);
}

}  // namespace
}  // namespace shoal::model
