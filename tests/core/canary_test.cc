// Ranks that compute wrongly without failing: canaries with a known answer, and checksums of hidden states.
#include "coordinator/core/canary.h"

#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "coordinator/core/report.h"
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

TEST(CanaryWatch, WhatItAnsweredFirstAndTwiceIsKnown) {
  CanaryWatch watch(kSecond);
  watch.GroupReady(0);
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}, 5), "");
  EXPECT_FALSE(watch.passed() || watch.TakeLearned().has_value());
  EXPECT_TRUE(watch.Due(5)) << "again at once";
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}, 6), "");
  EXPECT_TRUE(watch.passed());
  EXPECT_FALSE(watch.Due(6));
  EXPECT_EQ(watch.TakeLearned(), (KnownCanary{"a", {1, 2, 3, 4}}));
  EXPECT_FALSE(watch.TakeLearned().has_value()) << "once";
  EXPECT_EQ(watch.Judge("b", {{1, 2, 3, 5}}, 7), "");
  EXPECT_EQ(watch.Judge("b", {{1, 2, 3, 5}}, 7), "");
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}, 7), "");
  EXPECT_FALSE(watch.first());
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 5}}, 8),
            "the canary was answered with tokens 1 2 3 5 instead of 1 2 3 4: a rank computes wrongly");
  EXPECT_TRUE(watch.first());
  EXPECT_NE(watch.Judge("c", {{1}, false}, 8), "") << "what is not a number is never right";
  EXPECT_FALSE(watch.gives_up());
  EXPECT_NE(watch.Judge("a", {{}}, 8), "");
  EXPECT_TRUE(watch.gives_up());
  EXPECT_EQ(watch.Judge("a", {{1, 2, 3, 4}}, 9), "");
  EXPECT_FALSE(watch.gives_up() || watch.first());
  EXPECT_EQ(watch.passes(), 4u);
  EXPECT_EQ(watch.failures(), 3u);
}

TEST(CanaryWatch, TwoFirstAnswersThatDifferAreAFailureAndNeitherIsKnown) {
  CanaryWatch watch(kSecond);
  watch.GroupReady(0);
  EXPECT_EQ(watch.Judge("a", {{1, 2}}, 1), "");
  EXPECT_EQ(watch.Judge("a", {{1, 3}}, 2),
            "the canary was answered with tokens 1 3 after 1 2: a rank computes wrongly");
  EXPECT_TRUE(watch.first());
  EXPECT_EQ(watch.Judge("a", {{1, 4}}, 3), "");
  EXPECT_TRUE(watch.first()) << "one answer says nothing yet";
  watch.Failed("ranks differ");
  EXPECT_EQ(watch.Judge("a", {{1, 2}}, 4), "") << "what came before a failure is no answer";
  EXPECT_EQ(watch.Judge("a", {{1, 2}}, 5), "");
  EXPECT_TRUE(watch.passed());
  EXPECT_EQ(watch.TakeLearned(), (KnownCanary{"a", {1, 2}}));
}

TEST(CanaryWatch, ComparesWithWhatFormerCoordinatorsLearned) {
  CanaryWatch watch(kSecond, {{"a", {1, 2}}});
  watch.GroupReady(0);
  EXPECT_EQ(
      watch.Judge("a", {{1, 3}}, 1),
      "the canary was answered with tokens 1 3 instead of 1 2, which a coordinator before this one learned: a rank "
      "computes wrongly");
  EXPECT_EQ(watch.Judge("a", {{1, 2}}, 2), "");
  EXPECT_TRUE(watch.passed());
  EXPECT_FALSE(watch.TakeLearned().has_value()) << "nothing new";
  EXPECT_EQ(CanaryWatch::Key("numerics", "r1", {5, 7}), "numerics of r1 asked 5,7 for 4");
}

TEST(CanaryWatch, IsDueAtOnceThenAfterAnInterval) {
  CanaryWatch watch(10);
  watch.GroupReady(100);
  EXPECT_TRUE(watch.Due(100));
  EXPECT_EQ(watch.Judge("a", {{1}}, 102), "");
  EXPECT_EQ(watch.Judge("a", {{1}}, 103), "");
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
  off.Distrust("x");
  EXPECT_FALSE(off.Due(1000) || off.first());
  EXPECT_TRUE(off.passed());
}

TEST(CanaryWatch, PlansOfClientsThatDifferCountUntilOneAgrees) {
  for (const DurationNs interval : {0 * kSecond, kSecond}) {
    CanaryWatch watch(interval, {{"a", {1}}});
    watch.GroupReady(0);
    watch.Distrust("x");
    watch.Distrust("x");
    EXPECT_EQ(watch.Judge("a", {{1}}, 0), "");
    EXPECT_EQ(watch.failures_in_row(), 2) << "that a canary passes puts nothing right";
    watch.Agreed();
    EXPECT_EQ(watch.failures_in_row(), 0);
    for (int i = 1; i <= 3; ++i) {
      EXPECT_FALSE(watch.gives_up());
      watch.Distrust("y");
    }
    EXPECT_TRUE(watch.gives_up());
    EXPECT_EQ(watch.Summary(), "3 times in a row ranks disagreed about plans of clients: y");
    interval == 0 ? watch.GroupReady(1) : void(watch.Judge("a", {{1}}, 1));
    EXPECT_FALSE(watch.gives_up());
    watch.Distrust("z");
    EXPECT_TRUE(watch.gives_up());
  }
}

TEST(CanaryWatch, WhatIsNoNumberBringsItOnceInAnInterval) {
  CanaryWatch watch(10, {{"a", {1}}});
  watch.GroupReady(0);
  EXPECT_EQ(watch.Judge("a", {{1}}, 1), "");
  watch.Suspect(3);
  EXPECT_TRUE(watch.first() && watch.Due(3));
  EXPECT_EQ(watch.Judge("a", {{1}}, 4), "");
  watch.Suspect(12);
  EXPECT_FALSE(watch.first());
  watch.Suspect(13);
  EXPECT_TRUE(watch.first() && watch.Due(13));
  CanaryWatch off(0);
  off.Suspect(5);
  EXPECT_FALSE(off.first());
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

// Wrong from the start is wrong, where a coordinator before this one has seen what is right.
TEST(Canary, ARestartedCoordinatorComparesWithTheFormerOne) {
  for (const bool knows : {true, false}) {
    Watched run;
    ASSERT_TRUE(run.RunUntilProven());
    run.cluster.CrashCoordinator();
    run.cluster.ComputeWrongly(true);
    run.cluster.RestartCoordinator(knows);
    ASSERT_TRUE(run.cluster.RunUntil([&] {
      const ClusterState state = run.cluster.state();
      return state.canary_failures + state.canary_passes > 0;
    }));
    EXPECT_EQ(run.cluster.state().canary_failures, knows ? 1u : 0u);
    EXPECT_EQ(run.cluster.state().proven, !knows);
    run.cluster.ComputeWrongly(false);
    EXPECT_TRUE(run.RunUntilProven());
  }
}

// Before anything is known, ranks that change their mind are not served by.
TEST(Canary, RanksThatAnswerItDifferentlyAtFirstAreNotReady) {
  Watched run;
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.plans().size() > CanaryWatch::kTokens; }));
  EXPECT_FALSE(run.cluster.state().proven);
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
  run.cluster.ComputeWrongly(false);
  EXPECT_FALSE(run.cluster.state().proven);
  ASSERT_TRUE(run.RunUntilProven());
}

TEST(Canary, AnotherAnswerLosesTheGroupAndItsKv) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  const uint64_t epoch = run.cluster.state().epoch;
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
  run.cluster.ComputeWrongly(false);
  EXPECT_TRUE(run.cluster.Logged("the canary was answered with tokens"));
  ASSERT_FALSE(run.cluster.reports().empty());
  const StallReport& report = *run.cluster.reports().back();
  EXPECT_EQ(report.culprit.what, Detection::kWrong);
  EXPECT_EQ(report.next, absl::StrCat("epoch ", epoch + 1, " is formed in 200 ms; requests that go on then: 0"));
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

// The first token of the canary's prompt.
int32_t CanaryToken(const VirtualCluster& cluster) {
  const ClusterState state = cluster.state();
  return CanaryWatch::Prompt({.blocks = state.kv_blocks,
                              .block_size = state.block_size,
                              .max_model_len = state.max_model_len,
                              .vocab = kVocab})[0];
}

TEST(Canary, RanksThatDieOfItWhileItGoesFirstAreAFailureOfIt) {
  for (const char* cause : {"killed by signal 11", "stuck in attention"}) {
    Watched run;
    ASSERT_TRUE(run.RunUntilProven());
    const int32_t token = CanaryToken(run.cluster);
    run.cluster.ComputeWrongly(true);
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
    run.cluster.ComputeWrongly(false);
    run.cluster.DieOf([token](const std::vector<int32_t>& first) { return first[0] == token; }, cause);
    run.cluster.Submit(MakeRequest(1));
    ASSERT_TRUE(run.cluster.RunUntilAnswered(60 * kSecond)) << "it waits for ever";
    EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(run.cluster.state().canary_failures, 3u);
    run.cluster.RunUntil(run.cluster.now() + 60 * kSecond);
    EXPECT_LT(run.cluster.state().groups_formed, 30u) << "not as fast as it can";
    EXPECT_NE(run.cluster.state().detail.find(cause), std::string::npos) << run.cluster.state().detail;
    EXPECT_EQ(run.cluster.state().poisoned, 0u);
    run.cluster.DieOf(nullptr);
    ASSERT_TRUE(run.RunUntilProven());
    const GenerateRequest r = MakeRequest(2);
    run.cluster.Submit(r);
    ASSERT_TRUE(run.cluster.RunUntilAnswered());
    ExpectAsAlone(run.cluster, r);
  }
}

TEST(Canary, WhoIsKilledUnderItFromOutsideSaysNothingAboutIt) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.ComputeWrongly(true);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 1; }));
  run.cluster.ComputeWrongly(false);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_runs; }));
    run.cluster.KillRank(1, "killed by signal 9");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return !run.cluster.state().canary_runs; }));
  }
  ASSERT_TRUE(run.RunUntilProven());
  EXPECT_EQ(run.cluster.state().canary_failures, 1u);
}

TEST(Canary, StepsOfALongPromptProveTheGroup) {
  CoreOptions o = Watched::With(2, 10 * kSecond);
  o.max_num_batched_tokens = 16;
  VirtualCluster cluster(o, {}, 5);
  cluster.AddAgent({.id = "a", .slots = 4});
  ASSERT_TRUE(cluster.RunUntilReady());
  GenerateRequest r = MakeRequest(1);
  r.prompt.resize(200, 3);
  cluster.Submit(r);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().answers > 8; }));
  cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().groups_formed == 2; }));
  EXPECT_FALSE(cluster.state().proven);
  const uint64_t answers = cluster.state().answers;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().answers >= answers + 4; }));
  EXPECT_TRUE(cluster.answer(1).tokens.empty());
  EXPECT_TRUE(cluster.state().proven);
  ASSERT_TRUE(cluster.RunUntilAnswered());
  ExpectAsAlone(cluster, r);
}

// Under clients that never pause, the canary that is due while idle would never come.
TEST(Canary, WeightsThatGiveNoNumbersAreFoundUnderSteadyTraffic) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  const int32_t token = CanaryToken(run.cluster);
  for (int i = 0; i < 600; ++i) {
    GenerateRequest r = MakeRequest(1 + i, 100);
    if (i % 2 == 0) r.prompt[0] = token;
    run.cluster.SubmitAt(run.cluster.now() + i * 20 * kMillisecond, r);
  }
  run.cluster.RunUntil(run.cluster.now() + 100 * kMillisecond);
  run.cluster.PoisonRequestsWith(token);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_failures == 3; }, 10 * kSecond));
  EXPECT_FALSE(run.cluster.state().proven);
  EXPECT_NE(run.cluster.state().detail.find("not a number"), std::string::npos) << run.cluster.state().detail;
  run.cluster.PoisonRequestsWith(-1);
  ASSERT_TRUE(run.RunUntilProven());
}

// A prompt can do that too, and then it is the request's own fault.
TEST(Canary, ARequestThatGivesNoNumbersCostsOthersOneCanary) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.PoisonRequestsWith(90);
  const GenerateRequest good = MakeRequest(1, 200);
  run.cluster.Submit(good);
  for (int i = 0; i < 20; ++i) {
    GenerateRequest bad = MakeRequest(10 + i);
    bad.prompt[0] = 90;
    run.cluster.SubmitAt(run.cluster.now() + i * 10 * kMillisecond, bad);
  }
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.answer(12).finish.error.code(), absl::StatusCode::kInternal);
  ExpectAsAlone(run.cluster, good);
  EXPECT_EQ(run.cluster.state().canary_passes, 2u);
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
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
  EXPECT_EQ(run.cluster.state().checksums_agreed, 2u * 8) << "each plan of the canary, which is asked twice";
  run.cluster.Submit(MakeRequest(1, 200));
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  run.cluster.RunUntil(run.cluster.now() + 10 * kMillisecond);
  int asked = 0;
  for (const auto& plan : run.cluster.plans()) asked += plan.checksum;
  EXPECT_GE(asked, 8 + 200 / 8);
  EXPECT_LE(asked, 8 + 210 / 8);
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

// Runs while `rank` holds other states in plans of clients, and the right ones in those of the canary.
bool RunWhileOnlyClientsSee(VirtualCluster& cluster, int32_t rank, const std::function<bool()>& done) {
  const TimeNs until = cluster.now() + 120 * kSecond;
  while (cluster.now() < until && !done()) {
    cluster.HoldOtherStates(cluster.state().canary_runs ? -1 : rank);
    cluster.RunUntil(cluster.now() + 250 * kMicrosecond);
  }
  cluster.HoldOtherStates(-1);
  return done();
}

TEST(Checksums, WhatOnlyClientsSeeEndsToo) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  run.cluster.Submit(MakeRequest(1, 200));
  ASSERT_TRUE(RunWhileOnlyClientsSee(run.cluster, 0, [&] { return run.cluster.answer(1).finishes > 0; }));
  EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(run.cluster.state().mismatches[0], 3u);
  EXPECT_EQ(run.cluster.state().canary_failures, 0u);
  EXPECT_NE(run.cluster.state().detail.find("3 times in a row ranks disagreed"), std::string::npos);
  ASSERT_TRUE(run.RunUntilProven());
  const GenerateRequest r = MakeRequest(2);
  run.cluster.Submit(r);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
}

TEST(Checksums, APlanOfClientsThatAgreesBeginsAnew) {
  Watched run;
  ASSERT_TRUE(run.RunUntilProven());
  const GenerateRequest r = MakeRequest(1, 200);
  run.cluster.Submit(r);
  for (uint64_t times = 2; times <= 6; times += 2) {
    ASSERT_TRUE(RunWhileOnlyClientsSee(run.cluster, 0, [&] { return run.cluster.state().mismatches[0] == times; }));
    const size_t tokens = run.cluster.answer(1).tokens.size();
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.answer(1).tokens.size() > tokens + 16; }));
  }
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
}

// One of three agents is wrong, and a spare is there.
TEST(Checksums, TheAgentOfTheRankThatStaysWrongGivesItsPlaceAway) {
  CoreOptions o = Watched::With(3, 10 * kSecond);
  o.pp = 1;
  o.nnodes = 3;
  VirtualCluster cluster(o, {}, 5);
  for (const char* id : {"a", "b", "c", "spare"}) cluster.AddAgent({.id = id});
  ASSERT_TRUE(cluster.RunUntilReady());
  const auto rank_of_b = [&] {
    for (const auto& rank : cluster.state().ranks) {
      if (rank.agent == "b") return rank.rank;
    }
    return -1;
  };
  ASSERT_EQ(rank_of_b(), 1);
  const auto proven = [&] { return cluster.state().proven && rank_of_b() == -1; };
  const GenerateRequest first = MakeRequest(1, 100);
  cluster.Submit(first);
  for (int i = 0; i < 100000 && !proven(); ++i) {
    cluster.HoldOtherStates(rank_of_b());
    cluster.RunUntil(cluster.now() + 500 * kMicrosecond);
  }
  ASSERT_TRUE(proven()) << cluster.state().detail;
  const GenerateRequest r = MakeRequest(2);
  cluster.Submit(r);
  ASSERT_TRUE(cluster.RunUntilAnswered());
  ExpectAsAlone(cluster, first);  // it was not turned away: the others were tried in time
  ExpectAsAlone(cluster, r);
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
