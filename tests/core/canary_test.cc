// Ranks that compute wrongly without failing: canaries with a known answer, and checksums of hidden states.
#include "coordinator/core/canary.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::ClusterTimes, sim::kVocab, sim::LoneRun, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;

GenerateRequest MakeRequest(RequestId id, int32_t max_tokens = 40) {
  GenerateRequest r;
  r.id = id;
  r.prompt = {static_cast<int32_t>(id), 2, 3, 4, 5};
  r.max_tokens = max_tokens;
  return r;
}

void ExpectAsAlone(const VirtualCluster& cluster, const GenerateRequest& r) {
  EXPECT_TRUE(cluster.problems().empty()) << cluster.problems().front();
  const Answer& a = cluster.answer(r.id);
  ASSERT_EQ(a.finishes, 1);
  FinishReason reason;
  EXPECT_EQ(a.tokens, LoneRun(r, &reason)) << a.finish.error;
}

TEST(CanaryWatch, TheFirstAnswerUnderANumericsIdIsTheKnownOne) {
  CanaryWatch watch(kSecond);
  watch.GroupReady(0);
  EXPECT_FALSE(watch.passed());
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}), "");
  EXPECT_TRUE(watch.passed());
  EXPECT_EQ(watch.Judge("b", {{1, 2, 3, 5}}), "");
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}), "");
  EXPECT_FALSE(watch.first());
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 5}}),
            "the canary was answered with tokens 1 2 3 5 instead of 1 2 3 4: a rank computes wrongly");
  EXPECT_TRUE(watch.first());
  EXPECT_NE(watch.Judge("c", {{1}, false}), "") << "what is not a number is never right";
  EXPECT_FALSE(watch.gives_up());
  EXPECT_NE(watch.Judge("a", {{}}), "");
  EXPECT_TRUE(watch.gives_up());
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}), "");
  EXPECT_FALSE(watch.gives_up() || watch.first());
  EXPECT_EQ(watch.passes(), 4u);
  EXPECT_EQ(watch.failures(), 3u);
}

TEST(CanaryWatch, IsDueAtOnceThenAfterAnInterval) {
  CanaryWatch watch(10);
  watch.GroupReady(100);
  EXPECT_TRUE(watch.Due(100));
  watch.Ended(103);
  EXPECT_FALSE(watch.Due(112));
  EXPECT_TRUE(watch.Due(113));
  watch.Busy(120);
  EXPECT_FALSE(watch.Due(129));
  watch.Failed("x");
  watch.GroupReady(200);
  watch.Busy(201);
  EXPECT_TRUE(watch.Due(202)) << "clients wait for it";
  CanaryWatch off(0);
  off.GroupReady(5);
  off.Distrust();
  EXPECT_FALSE(off.Due(1000) || off.first());
  EXPECT_TRUE(off.passed());
}

TEST(CanaryWatch, ThePromptFitsTheGroup) {
  EXPECT_EQ(CanaryWatch::Prompt({.blocks = 10, .block_size = 16, .max_model_len = 100, .vocab = 32}),
            (std::vector<int32_t>{2, 6, 10, 14, 18, 22, 26, 30}));
  for (int32_t vocab : {1, 7, 96, 1 << 30}) {
    for (int32_t token :
         CanaryWatch::Prompt({.blocks = 1 << 24, .block_size = 1 << 10, .max_model_len = 100, .vocab = vocab})) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, vocab);
    }
  }
  EXPECT_EQ(CanaryWatch::Prompt({.blocks = 10, .block_size = 16, .max_model_len = 6, .vocab = 32}).size(), 2u);
  EXPECT_TRUE(CanaryWatch::Prompt({.blocks = 10, .block_size = 16, .max_model_len = 4, .vocab = 32}).empty());
}

struct Watched {
  explicit Watched(int32_t tp = 2, DurationNs canary_interval = 10 * kSecond)
      : cluster(With(tp, canary_interval), {}, 5) {
    cluster.AddAgent({.id = "a", .slots = 2 * tp});
    EXPECT_TRUE(cluster.RunUntilReady());
  }
  static CoreOptions With(int32_t tp, DurationNs canary_interval) {
    CoreOptions o = TestOptions();
    o.tp = tp;
    o.pp = 2;
    o.canary_interval = canary_interval;
    o.checksum_interval = 8;
    return o;
  }
  bool RunUntilProven() {
    return cluster.RunUntil([this] { return cluster.state().proven; }, 60 * kSecond);
  }
  VirtualCluster cluster;
};

TEST(Canary, AGroupIsProvenByItAndNoFigureOfClientsMoves) {
  Watched run;
  EXPECT_FALSE(run.cluster.state().proven);
  EXPECT_TRUE(run.cluster.state().canary_runs);
  EXPECT_EQ(run.cluster.state().running + run.cluster.state().waiting, 0);
  ASSERT_TRUE(run.RunUntilProven());
  const ClusterState state = run.cluster.state();
  EXPECT_EQ(state.canary_passes, 1u);
  EXPECT_FALSE(state.canary_runs);
  EXPECT_EQ(state.kv_blocks, state.kv_blocks_free);
  EXPECT_EQ(state.prompt_tokens + state.output_tokens, 0u);
  EXPECT_TRUE(run.cluster.answers().empty());
  EXPECT_EQ(run.cluster.max_in_flight(), 1);
}

TEST(Canary, RunsWhileIdleAndNotWhileBusy) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.RunUntil(run.cluster.now() + 95 * kSecond);
  EXPECT_EQ(run.cluster.state().canary_passes, 10u);
  const GenerateRequest r = MakeRequest(1, 200);
  run.cluster.Submit(r);
  const TimeNs from = run.cluster.now();
  for (int i = 0; i < 80; ++i) run.cluster.SubmitAt(from + i * kSecond, MakeRequest(10 + i));
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.state().canary_passes, 10u) << "there was always something to do";
  ExpectAsAlone(run.cluster, r);
}

TEST(Canary, EndsAtOnceWhenAClientComes) {
  Watched run;
  ASSERT_TRUE(run.cluster.state().canary_runs);
  run.cluster.RunUntil(run.cluster.now() + kMillisecond);  // on the ranks
  const size_t plans = run.cluster.plans().size();
  EXPECT_GT(plans, 0u);
  const GenerateRequest r = MakeRequest(1);
  run.cluster.Submit(r);
  EXPECT_FALSE(run.cluster.state().canary_runs);
  EXPECT_GT(run.cluster.plans().size(), plans) << "its first plan leaves with its arrival";
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
  EXPECT_EQ(run.cluster.state().canary_passes, 0u);
  EXPECT_TRUE(run.cluster.state().proven) << "by the client's tokens";
  run.cluster.RunUntil(run.cluster.now() + 12 * kSecond);
  EXPECT_EQ(run.cluster.state().canary_passes, 1u);
}

TEST(Canary, AfterALossClientsGoFirst) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  const GenerateRequest r = MakeRequest(1, 100);
  run.cluster.Submit(r);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.answer(1).tokens.size() > 3; }));
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
  EXPECT_EQ(run.cluster.state().canary_passes, 1u);
  EXPECT_EQ(run.cluster.state().resumed, 1u);
}

TEST(Canary, ARankLostUnderItIsNobodysFault) {
  Watched run;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_runs; }));
    run.cluster.KillRank(1, "killed by signal 11");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
    EXPECT_FALSE(run.cluster.state().proven);
  }
  ASSERT_TRUE(run.RunUntilProven());
  EXPECT_EQ(run.cluster.state().canary_failures + run.cluster.state().poisoned, 0u);
}

TEST(Canary, AnotherAnswerLosesTheGroupAndItsKv) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  const uint64_t epoch = run.cluster.state().epoch;
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
  run.cluster.ComputeWrongly(false);
  EXPECT_TRUE(run.cluster.Logged("the canary was answered with tokens"));
  ASSERT_TRUE(run.RunUntilProven());
  const ClusterState state = run.cluster.state();
  EXPECT_GT(state.epoch, epoch);
  EXPECT_EQ(state.canary_failures, 1u);
  EXPECT_EQ(state.detail, "");
  EXPECT_FALSE(run.cluster.Logged("with the KV cache as it was"));
}

// While ranks are not to be trusted, a client that comes waits for the canary.
TEST(Canary, AfterAFailureItGoesBeforeClients) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
  const GenerateRequest r = MakeRequest(1);
  run.cluster.Submit(r);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 2; }));
  run.cluster.ComputeWrongly(false);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
  EXPECT_EQ(run.cluster.state().canary_passes, 2u);
}

TEST(Canary, ThreeInARowAndNobodyIsServedUntilItPasses) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 2; }));
  run.cluster.Submit(MakeRequest(1));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 3; }));
  EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_GT(run.cluster.answer(1).finish.retry_after_s, 0);
  run.cluster.Submit(MakeRequest(2));
  EXPECT_EQ(run.cluster.answer(2).finish.error.code(), absl::StatusCode::kUnavailable);
  run.cluster.RunUntil(run.cluster.now() + 60 * kSecond);
  const ClusterState state = run.cluster.state();
  EXPECT_FALSE(state.proven);
  EXPECT_NE(state.detail.find("canaries in a row failed: the canary was answered"), std::string::npos) << state.detail;
  EXPECT_GT(state.canary_failures, 10u);  // it goes on trying, and not as fast as it can
  EXPECT_LT(state.canary_failures, 30u);
  run.cluster.ComputeWrongly(false);
  ASSERT_TRUE(run.RunUntilProven());
  const GenerateRequest r = MakeRequest(3);
  run.cluster.Submit(r);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
}

TEST(Canary, FailsWhereItHasNoRoomForNobody) {
  CoreOptions o = Watched::With(2, 10 * kSecond);
  o.max_model_len = 4;
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "a", .slots = 4});
  ASSERT_TRUE(cluster.RunUntilReady());
  EXPECT_TRUE(cluster.state().proven);
  EXPECT_FALSE(cluster.state().canary_runs);
}

TEST(Checksums, ComparedInEveryStageOfSomePlans) {
  Watched run(3);
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.RunUntil(run.cluster.now() + 10 * kMillisecond);  // the last answers of those that do not sample
  EXPECT_EQ(run.cluster.state().checksums_agreed, 2u * 4) << "each plan of the canary";
  run.cluster.Submit(MakeRequest(1, 200));
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  run.cluster.RunUntil(run.cluster.now() + 10 * kMillisecond);
  int asked = 0;
  for (const auto& plan : run.cluster.plans()) asked += plan.checksum;
  EXPECT_GE(asked, 4 + 200 / 8);
  EXPECT_LE(asked, 4 + 210 / 8);
  EXPECT_EQ(run.cluster.state().checksums_agreed, 2u * asked);
  EXPECT_TRUE(run.cluster.state().mismatches.empty());
}

TEST(Checksums, ARankThatHoldsOtherStatesLosesTheGroupAndItsKv) {
  for (const int32_t tp : {2, 3}) {
    for (const DurationNs interval : {0 * kSecond, 10 * kSecond}) {
      SCOPED_TRACE(absl::StrCat("tp ", tp, " canary ", interval));
      Watched run(tp, interval);
      ASSERT_TRUE(run.RunUntilProven());
      const GenerateRequest r = MakeRequest(1, 100);
      run.cluster.Submit(r);
      ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.answer(1).tokens.size() > 20; }));
      run.cluster.HoldOtherStates(tp + 1);  // of stage 1
      ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
      run.cluster.HoldOtherStates(-1);
      ASSERT_TRUE(run.cluster.RunUntilAnswered());
      ExpectAsAlone(run.cluster, r);
      const ClusterState state = run.cluster.state();
      EXPECT_EQ(state.resumed, 0u);
      EXPECT_GT(state.recomputed_tokens, 20u);
      EXPECT_EQ(state.poisoned, 0u);
      std::map<int32_t, uint64_t> named = {{tp + 1, 1}};
      if (tp == 2) named[tp] = 1;
      EXPECT_EQ(state.mismatches, named);
      EXPECT_TRUE(run.cluster.Logged("hidden states of stage 1 differ at step"));
      EXPECT_EQ(run.cluster.Logged(absl::StrCat("rank ", tp + 1, " is wrong")), tp == 3);
      EXPECT_EQ(state.canary_passes, interval > 0 ? 2u : 0u) << "before the client went on";
    }
  }
}

TEST(Checksums, ARankThatStaysWrongEndsInNotReady) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.Submit(MakeRequest(1, 200));
  run.cluster.HoldOtherStates(0);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(run.cluster.state().detail.find("hidden states of stage 0 differ"), std::string::npos);
  EXPECT_EQ(run.cluster.state().canary_failures, 3u);
  run.cluster.RunUntil(run.cluster.now() + 30 * kSecond);
  EXPECT_FALSE(run.cluster.state().proven);
}

}  // namespace
}  // namespace shoal::core
