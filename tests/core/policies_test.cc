// The small pure decisions: placement, cache size, admission, blame, quarantine.
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/blame.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/quarantine.h"
#include "coordinator/core/sizing.h"
#include "gtest/gtest.h"

namespace shoal::core {
namespace {

plan::AgentInfo Agent(const std::string& id, int slots, std::vector<int32_t> held = {}, const std::string& boot = "x") {
  plan::AgentInfo info;
  info.id = id;
  info.hostname = absl::StrCat("host-", boot);
  info.boot_id = boot;
  info.slots.resize(slots);
  info.held_ranks = std::move(held);
  return info;
}

// "a0 a1 b0": agent and slot of each rank in order; the error's text when there is none.
std::string Place(const std::vector<plan::AgentInfo>& agents, PlacementWish wish) {
  const auto placed = PlaceRanks(agents, wish);
  if (!placed.ok()) return std::string(placed.status().message());
  std::string text;
  for (size_t i = 0; i < placed->size(); ++i) {
    EXPECT_EQ((*placed)[i].rank, static_cast<int32_t>(i));
    absl::StrAppend(&text, i == 0 ? "" : " ", (*placed)[i].agent, (*placed)[i].slot);
  }
  return text;
}

TEST(PlaceRanks, Table) {
  EXPECT_EQ(Place({Agent("a", 4)}, {2, 2, 1, {}}), "a0 a1 a2 a3");
  EXPECT_EQ(Place({Agent("a", 2), Agent("b", 2)}, {2, 2, 2, {}}), "a0 a1 b0 b1");
  EXPECT_EQ(Place({Agent("a", 8), Agent("b", 8)}, {2, 2, 2, {}}), "a0 a1 b0 b1");  // an even share each
  EXPECT_EQ(Place({Agent("a", 8), Agent("b", 8)}, {2, 2, 1, {}}), "a0 a1 a2 a3");
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 3)}, {2, 2, 2, {}}), "b0 b1 a0 b2");  // more than b's share
  EXPECT_EQ(Place({Agent("a", 2), Agent("b", 2), Agent("c", 2)}, {3, 2, 3, {}}), "a0 a1 b0 b1 c0 c1");
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1)}, {2, 1, 2, {}}), "a0 b0");
}

TEST(PlaceRanks, RanksStayWhereTheyWereOrWhereTheirWeightsAre) {
  const std::vector<plan::RankAssignment> before = {{0, "a", 1}, {1, "a", 0}, {2, "b", 0}, {3, "b", 1}};
  EXPECT_EQ(Place({Agent("b", 2), Agent("a", 2)}, {2, 2, 2, before}), "a1 a0 b0 b1");
  EXPECT_EQ(Place({Agent("b", 2), Agent("c", 2)}, {2, 2, 2, before}), "c0 c1 b0 b1");
  EXPECT_EQ(Place({Agent("a", 2, {2, 3}), Agent("b", 2, {0, 1})}, {2, 2, 2, {}}), "b0 b1 a0 a1");
  // `a` was started again and has nothing; another one has loaded its shards since.
  EXPECT_EQ(Place({Agent("a", 2), Agent("b", 2, {2, 3}), Agent("c", 2, {0, 1})}, {2, 2, 2, before}), "c0 c1 b0 b1");
  EXPECT_EQ(Place({Agent("a", 2), Agent("b", 2, {2, 3}), Agent("c", 2)}, {2, 2, 2, before}), "a1 a0 b0 b1");
  EXPECT_EQ(Place({Agent("a", 2, {7, -1, 3}), Agent("b", 2, {3})}, {2, 2, 2, {}}), "b0 b1 a1 a0");
}

TEST(PlaceRanks, SaysWhatIsMissing) {
  EXPECT_EQ(Place({}, {1, 1, 1, {}}), "waiting for 1 agent with 1 slot; there is none");
  EXPECT_EQ(Place({Agent("a", 1)}, {2, 2, 2, {}}),
            "waiting for 2 agents with 4 slots; there are 1 with 1 slots on host-x");
  const std::string spans = Place({Agent("a", 2), Agent("b", 2, {}, "y")}, {2, 2, 2, {}});
  EXPECT_NE(spans.find("cannot span hosts"), std::string::npos) << spans;
  // The second host is complete in itself.
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1, {}, "y"), Agent("c", 1, {}, "y")}, {2, 1, 2, {}}), "b0 c0");
}

TEST(PlaceRanks, SpansHostsOnlyWhereNoneIsEnough) {
  const auto spanning = [](int tp, int nnodes, std::vector<plan::RankAssignment> previous = {}) {
    return PlacementWish{tp, 1, nnodes, std::move(previous), true};
  };
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1, {}, "y")}, spanning(2, 2)), "a0 b0");
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 2, {}, "y")}, spanning(2, 1)), "b0 b1");
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1, {}, "y"), Agent("c", 1, {}, "y")}, spanning(2, 2)), "b0 c0");
  // Ranks stay, whatever else has come.
  const std::vector<plan::RankAssignment> before = {{0, "a", 0}, {1, "b", 0}};
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1, {}, "y"), Agent("c", 1, {}, "y")}, spanning(2, 2, before)), "a0 b0");
  EXPECT_EQ(Place({Agent("c", 2, {}, "y"), Agent("a", 1)}, spanning(2, 2, before)), "a0 c0");
  EXPECT_EQ(Place({Agent("c", 2, {}, "y")}, spanning(2, 1, before)), "c0 c1");
  EXPECT_EQ(Place({Agent("a", 1), Agent("b", 1, {}, "y")}, spanning(3, 2)),
            "waiting for 2 agents with 3 slots; there are 1 with 1 slots on host-x, 1 with 1 slots on host-y");
}

CoreOptions Options() {
  CoreOptions o;
  o.model.vocab = 100;
  o.model.max_position = 1000;
  o.engine.block_size = 10;
  o.max_num_seqs = 4;
  o.max_num_batched_tokens = 64;
  return o;
}

// Room for 50 and 80 blocks.
const std::vector<plan::JoinReply::Rank> kRanks = {{0, 1000, 0, 100, 6000}, {1, 2000, 0, 50, 6000}};

TEST(SizeCache, TheTightestRankDecides) {
  auto limits = SizeCache(Options(), kRanks);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(*limits, (plan::MirrorLimits{50, 10, 4, 64, 500, 100}));
  CoreOptions o = Options();
  o.kv_memory_bytes = 1500;  // 15 and 30
  EXPECT_EQ(SizeCache(o, kRanks)->blocks, 15);
  EXPECT_EQ(SizeCache(o, kRanks)->max_model_len, 150);
  o.kv_memory_bytes = 1 << 30;
  EXPECT_EQ(SizeCache(o, kRanks)->blocks, 50);
}

TEST(SizeCache, NoMoreThanCouldBeUsed) {
  CoreOptions o = Options();
  o.max_model_len = 45;  // 5 blocks, 4 sequences
  EXPECT_EQ(SizeCache(o, kRanks)->blocks, 20);
  EXPECT_EQ(SizeCache(o, kRanks)->max_model_len, 45);
  o.max_num_batched_tokens = 3;  // a plan holds a row of everything that runs
  EXPECT_EQ(SizeCache(o, kRanks)->max_sequences, 3);
  o.kv_blocks = 33;
  EXPECT_EQ(SizeCache(o, kRanks)->blocks, 33);
}

TEST(SizeCache, MoreMemoryThanBlocksCanBeCounted) {
  CoreOptions o = Options();
  o.model.max_position = 1'000'000'000;
  const std::vector<plan::JoinReply::Rank> huge = {{0, 0, 0, 1, int64_t{1} << 62}};
  const auto limits = SizeCache(o, huge);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->blocks, plan::kMaxBlocks);
  EXPECT_EQ(limits->max_model_len, plan::kMaxBlocks * 10);
  o.kv_blocks = plan::kMaxBlocks + 1;
  EXPECT_FALSE(SizeCache(o, huge).ok());
}

TEST(SizeCache, WhatWasAskedForAndDoesNotFitFails) {
  const auto message = [](const CoreOptions& o, std::vector<plan::JoinReply::Rank> ranks = kRanks) {
    const auto limits = SizeCache(o, ranks);
    return limits.ok() ? std::string() : std::string(limits.status().message());
  };
  CoreOptions o = Options();
  o.max_model_len = 501;
  EXPECT_NE(message(o).find("the KV cache holds 500 tokens (rank 0"), std::string::npos) << message(o);
  o.max_model_len = 500;
  EXPECT_EQ(message(o), "");
  o = Options();
  o.kv_blocks = 51;
  EXPECT_NE(message(o).find("51 KV blocks were asked for, but rank 0"), std::string::npos) << message(o);
  o = Options();
  EXPECT_NE(message(o, {{3, 5000, 0, 100, 4000}}).find("no room for a KV cache: rank 3"), std::string::npos);
  EXPECT_NE(message(o, {{3, 0, 0, 0, 4000}}).find("rank 3"), std::string::npos);
  EXPECT_NE(message(o, {}), "");
}

TEST(CheckRequest, BordersOfWhatFits) {
  GenerateRequest r;
  r.prompt = {0, 99};
  r.max_tokens = 8;
  const auto check = [&](int32_t max_model_len, int32_t vocab) {
    return CheckRequest(r, {.max_sequences = 4, .max_model_len = max_model_len, .vocab = vocab});
  };
  EXPECT_TRUE(check(10, 100).ok());
  EXPECT_FALSE(check(9, 100).ok());
  EXPECT_FALSE(check(10, 99).ok());
  r.prompt[0] = -1;
  EXPECT_FALSE(check(10, 100).ok());
  r.prompt[0] = 0;
  r.n = 4;
  EXPECT_TRUE(check(10, 100).ok());
  for (const int32_t n : {5, 0, -1}) {
    r.n = n;
    EXPECT_FALSE(check(10, 100).ok()) << n;
  }
}

TEST(ServiceRate, ForetellsFromWhatFinishedLately) {
  ServiceRate rate;
  EXPECT_EQ(rate.RetryAfter(10, 0), 5);
  for (int i = 0; i <= 100; ++i) rate.Finished(i * kSecond / 2);
  EXPECT_EQ(rate.RetryAfter(10, 50 * kSecond), 5);
  EXPECT_EQ(rate.RetryAfter(0, 50 * kSecond), 1);
  EXPECT_EQ(rate.RetryAfter(500, 50 * kSecond), 60);
  EXPECT_GT(rate.RetryAfter(10, 100 * kSecond), 10);  // nothing has finished for a while
}

TEST(Blames, OnlyWhatAStepCanHaveCaused) {
  for (const char* outside :
       {"killed by signal 9", "stopped by signal 19", "killed by signal 15", "killed by signal 2",
        "killed by signal 9: its last words", "exited with 4", "exited with 4: rank 0: UNAVAILABLE: lost rank 1"}) {
    EXPECT_FALSE(Blames(outside)) << outside;
  }
  for (const char* step : {"killed by signal 9: out of memory", "killed by signal 11", "killed by signal 6",
                           "killed by signal 7 (core dumped)", "exited with 1: CUDA error", "killed by signal 90",
                           "stuck in attention at step 7", "exited with 40", ""}) {
    EXPECT_TRUE(Blames(step)) << step;
  }
}

TEST(Quarantine, TogetherThenAloneThenPoison) {
  Suspicion s;
  EXPECT_FALSE(Blame(/*alone=*/false, &s));
  EXPECT_FALSE(RunsAlone(s));
  EXPECT_FALSE(Blame(false, &s));
  EXPECT_TRUE(RunsAlone(s));
  EXPECT_TRUE(Blame(/*alone=*/true, &s));
}

TEST(Quarantine, WhoGetsOnIsNoSuspect) {
  Suspicion s;
  Blame(false, &s);
  Blame(false, &s);
  GotOn(&s);
  EXPECT_FALSE(RunsAlone(s));
  EXPECT_FALSE(Blame(true, &s));
  EXPECT_FALSE(Blame(true, &s));
  EXPECT_TRUE(RunsAlone(s));
}

TEST(Quarantine, NobodyIsPoisonForWhatHappenedInCompany) {
  Suspicion s;
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(Blame(false, &s));
  EXPECT_TRUE(RunsAlone(s));
}

TEST(Quarantine, AFewLossesInCompanyAndItRunsAloneToItsEndUnlessTheyWereAnothers) {
  Suspicion s;
  for (int i = 0; i < kMaxInCompany; ++i) {
    EXPECT_FALSE(RunsAlone(s)) << i;
    Blame(false, &s);
    GotOn(&s);
  }
  EXPECT_TRUE(RunsAlone(s));
  GotOn(&s);
  EXPECT_TRUE(RunsAlone(s));
  Explained(&s);
  EXPECT_FALSE(RunsAlone(s));
  Blame(false, &s);
  Blame(false, &s);
  Explained(&s);
  EXPECT_TRUE(RunsAlone(s)) << "whether it is another one is not known yet";
}

TEST(Quarantine, WhatFailsAloneAgainAndAgainIsPoisonWhateverItGotDone) {
  Suspicion s;
  for (int i = 1; i < kMaxLosses; ++i) {
    EXPECT_FALSE(Blame(true, &s));
    GotOn(&s);
  }
  EXPECT_TRUE(Blame(true, &s));
}

}  // namespace
}  // namespace shoal::core
