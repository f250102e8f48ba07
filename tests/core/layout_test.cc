// Which layout a group takes when it cannot have the one that was asked for.
#include "coordinator/core/layout.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/core/sizing.h"

namespace shoal::core {
namespace {

// Cut evenly by 1, 2, 3, 4, 6 and 12.
model::ModelConfig EvenModel() {
  model::ModelConfig m;
  m.layers = 12;
  m.hidden = 384;
  m.heads = m.kv_heads = 12;
  m.head_dim = 32;
  m.ffn = 12 * 32;
  m.vocab = 12 * 32;
  m.max_position = 256;
  m.rope.dim = 32;
  m.attention_scale = 0.125f;
  return m;
}

plan::AgentInfo Agent(const std::string& id, size_t slots, const std::string& boot = "x") {
  plan::AgentInfo info;
  info.id = id;
  info.boot_id = boot;
  info.hostname = "host-" + boot;
  info.slots.resize(slots);
  return info;
}

// "2x1 a0 a1", or "none".
std::string Choose(const std::vector<plan::AgentInfo>& agents, const Layout& asked,
                   const std::vector<Layout>& refused = {}, const model::ModelConfig& model = EvenModel()) {
  const auto chosen = ChooseSmallerLayout(model, agents, asked, refused);
  if (!chosen.ok()) return "none";
  std::string text = absl::StrCat(chosen->layout.tp, "x", chosen->layout.pp);
  for (const plan::RankAssignment& a : chosen->ranks) absl::StrAppend(&text, " ", a.agent, a.slot);
  return text;
}

TEST(ChooseSmallerLayout, AsManyRanksAsThereAreSlots) {
  EXPECT_EQ(Choose({Agent("a", 2)}, {4, 1}), "2x1 a0 a1");
  EXPECT_EQ(Choose({Agent("a", 3)}, {4, 1}), "3x1 a0 a1 a2");
  EXPECT_EQ(Choose({Agent("a", 1)}, {4, 1}), "1x1 a0");
  EXPECT_EQ(Choose({Agent("a", 3)}, {1, 4}), "1x3 a0 a1 a2");
  EXPECT_EQ(Choose({Agent("a", 3), Agent("b", 3)}, {4, 2}), "3x2 a0 a1 a2 b0 b1 b2");
}

TEST(ChooseSmallerLayout, NeverMoreOfEitherThanWasAskedFor) {
  EXPECT_EQ(Choose({Agent("a", 3)}, {2, 2}).substr(0, 3), "2x1");
  EXPECT_EQ(Choose({Agent("a", 5)}, {2, 3}).substr(0, 3), "2x2");
}

TEST(ChooseSmallerLayout, WhatWasAskedForOnFewerAgents) {
  EXPECT_EQ(Choose({Agent("a", 4)}, {2, 2}), "2x2 a0 a1 a2 a3");
}

TEST(ChooseSmallerLayout, HeadsDecide) {
  model::ModelConfig m = EvenModel();
  m.heads = m.kv_heads = 4;
  m.head_dim = m.rope.dim = 96;
  // Three tensor ranks would leave two heads to the largest, as two do.
  EXPECT_EQ(Choose({Agent("a", 3)}, {4, 1}, {}, m).substr(0, 1), "3");  // the rest of the model is cut in three
  m.heads = m.kv_heads = 2;
  m.head_dim = m.rope.dim = 192;
  EXPECT_EQ(Choose({Agent("a", 3)}, {4, 1}, {}, m).substr(0, 3), "2x1");  // no third rank without a head
  EXPECT_EQ(Choose({Agent("a", 4)}, {4, 2}, {}, m).substr(0, 3), "2x2");
}

TEST(ChooseSmallerLayout, OneHostUnlessATransportReachesFurther) {
  const std::vector<plan::AgentInfo> agents = {Agent("a", 1, "here"), Agent("b", 2, "there")};
  EXPECT_EQ(Choose(agents, {4, 1}), "2x1 b0 b1");
  const auto spanning = ChooseSmallerLayout(EvenModel(), agents, {4, 1}, {}, /*span_hosts=*/true);
  ASSERT_TRUE(spanning.ok());
  EXPECT_EQ(spanning->layout, (Layout{3, 1}));
}

TEST(ChooseSmallerLayout, WhatDidNotFitIsNotTriedAgain) {
  EXPECT_EQ(Choose({Agent("a", 2)}, {2, 2}, {{2, 1}}).substr(0, 3), "1x2");
  EXPECT_EQ(Choose({Agent("a", 2)}, {2, 2}, {{2, 1}, {1, 2}}), "1x1 a0");
  EXPECT_EQ(Choose({Agent("a", 2)}, {2, 2}, {{2, 1}, {1, 2}, {1, 1}}), "none");
}

TEST(ChooseSmallerLayout, NobodyThere) {
  EXPECT_EQ(Choose({}, {2, 2}), "none");
  EXPECT_EQ(ChooseSmallerLayout(EvenModel(), {}, {2, 2}, {}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Choose({Agent("a", 64)}, {1024, 1024}).substr(0, 4), "5x12") << "and in no time";
}

// Room for 50 blocks of 10 tokens.
const std::vector<plan::JoinReply::Rank> kRanks = {{0, 1000, 0, 100, 6000}};

TEST(SizeCache, AGroupWithFewerRanksMayHaveLess) {
  CoreOptions o;
  o.model.vocab = 100;
  o.model.max_position = 1000;
  o.engine.block_size = 10;
  o.max_model_len = 800;
  o.kv_blocks = 90;
  EXPECT_EQ(SizeCache(o, kRanks).status().code(), absl::StatusCode::kResourceExhausted);
  const auto limits = SizeCache(o, kRanks, Demand::kAtMost);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->blocks, 50);
  EXPECT_EQ(limits->max_model_len, 500);
  o.max_model_len = 300;
  o.kv_blocks = 40;
  EXPECT_EQ(SizeCache(o, kRanks, Demand::kAtMost)->blocks, 40);
  EXPECT_EQ(SizeCache(o, kRanks, Demand::kAtMost)->max_model_len, 300);
  const std::vector<plan::JoinReply::Rank> full = {{0, 6000, 0, 100, 6000}};
  EXPECT_EQ(SizeCache(o, full, Demand::kAtMost).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace shoal::core
