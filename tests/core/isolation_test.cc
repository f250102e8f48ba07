// Requests that make ranks fail: exactly they end, in a bounded number of losses; all others are answered as if alone.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "coordinator/core/quarantine.h"
#include "gtest/gtest.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::ClusterTimes, sim::kVocab, sim::LoneRun, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;

// Prompts of innocents never begin with one of these.
constexpr int32_t kPoison = 90, kOther = 91;

GenerateRequest MakeRequest(RequestId id, int32_t prompt, int32_t max_tokens, int32_t first = -1) {
  GenerateRequest r;
  r.id = id;
  for (int32_t i = 0; i < prompt; ++i) r.prompt.push_back(static_cast<int32_t>(RandomBits(7, id, i) % kPoison));
  if (first >= 0) r.prompt[0] = first;
  r.max_tokens = max_tokens;
  return r;
}

bool Has(const std::vector<int32_t>& firsts, int32_t first) {
  return std::find(firsts.begin(), firsts.end(), first) != firsts.end();
}

struct Isolated {
  explicit Isolated(int32_t tp = 2, int32_t pp = 2, CoreOptions options = TestOptions(), uint64_t seed = 3)
      : cluster(With(options, tp, pp), {}, seed) {
    cluster.AddAgent({.id = "a", .slots = tp});
    cluster.AddAgent({.id = "b", .slots = tp * (pp - 1) + 1});
    EXPECT_TRUE(cluster.RunUntilReady()) << cluster.state().detail;
  }
  static CoreOptions With(CoreOptions o, int32_t tp, int32_t pp) {
    o.tp = tp;
    o.pp = pp;
    o.nnodes = 2;
    return o;
  }
  void Submit(const GenerateRequest& r) {
    requests.push_back(r);
    cluster.Submit(r);
  }
  // Losses of a group that was ready.
  int losses() const { return static_cast<int>(cluster.state().groups_formed) - 1; }
  // All have ended; `poison` with FailedPrecondition, the others as if alone.
  void Expect(const std::set<RequestId>& poison) {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    ASSERT_TRUE(cluster.RunUntil([&] {
      const ClusterState state = cluster.state();
      return state.phase == Phase::kReady && !state.canary_runs;
    }));
    EXPECT_TRUE(cluster.problems().empty()) << cluster.problems().front();
    for (const GenerateRequest& r : requests) {
      SCOPED_TRACE(r.id);
      const Answer& a = cluster.answer(r.id);
      ASSERT_EQ(a.finishes, 1);
      FinishReason reason;
      const std::vector<int32_t> alone = LoneRun(r, &reason);
      if (poison.contains(r.id)) {
        EXPECT_EQ(a.finish.error.code(), absl::StatusCode::kFailedPrecondition) << a.finish.error;
        ASSERT_LE(a.tokens.size(), alone.size());
        EXPECT_TRUE(std::equal(a.tokens.begin(), a.tokens.end(), alone.begin()));
      } else {
        EXPECT_EQ(a.tokens, alone);
        EXPECT_EQ(a.finish.reason, reason) << a.finish.error;
      }
    }
    const ClusterState state = cluster.state();
    EXPECT_EQ(state.poisoned, poison.size());
    EXPECT_EQ(state.kv_blocks_free, state.kv_blocks);
    EXPECT_EQ(state.running + state.waiting, 0);
  }

  VirtualCluster cluster;
  std::vector<GenerateRequest> requests;
};

TEST(Isolation, OnePoisonAmongEight) {
  for (const auto& [tp, pp] : {std::pair(1, 1), {2, 2}, {1, 3}}) {
    for (int at = 0; at <= 8; ++at) {  // it arrives first, last, or between
      SCOPED_TRACE(absl::StrCat(tp, "x", pp, " at ", at));
      Isolated run(tp, pp);
      run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
      for (int i = 0; i <= 8; ++i) {
        if (i == at) run.Submit(MakeRequest(100, 12, 20, kPoison));
        if (i < 8) run.Submit(MakeRequest(i + 1, 5 + 3 * i, 30));
      }
      run.Expect({100});
      EXPECT_EQ(run.losses(), 3);
      EXPECT_TRUE(run.cluster.answer(100).tokens.empty());
      EXPECT_TRUE(run.cluster.Logged("request 100 is poison"));
    }
  }
}

// While a suspect runs, nothing else does; when there is none any more, all run together again.
TEST(Isolation, SuspectsRunAloneOneAfterTheOther) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6, 30));
  run.Submit(MakeRequest(100, 6, 20, kPoison));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.losses() == 2; }));
  const uint64_t epoch = run.cluster.state().epoch;
  run.Submit(MakeRequest(5, 6, 30));  // no suspect, and waits like the others
  run.Expect({100});
  std::vector<int32_t> rows;
  for (const auto& plan : run.cluster.plans()) {
    if (plan.epoch == epoch) rows.push_back(plan.rows);
  }
  ASSERT_GE(rows.size(), 5u);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 1) << "until the poison was found";
  int32_t most = 0;
  for (const auto& plan : run.cluster.plans()) {
    if (plan.epoch > epoch) most = std::max(most, plan.rows);
  }
  EXPECT_GT(most, 1) << "afterwards";
}

TEST(Isolation, PoisonThatKillsLaterThanAtOnce) {
  Isolated run;
  int tokens = 0;
  run.cluster.DieOf([&](const auto& firsts) { return Has(firsts, kPoison) && tokens > 5; });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6, 30));
  run.Submit(MakeRequest(100, 6, 40, kPoison));
  ASSERT_TRUE(run.cluster.RunUntil([&] {
    tokens = static_cast<int>(run.cluster.answer(100).tokens.size());
    return tokens > 5;
  }));
  run.Expect({100});
  EXPECT_EQ(run.losses(), 3);
  EXPECT_GT(run.cluster.answer(100).tokens.size(), 5u);
}

TEST(Isolation, TwoPoisons) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6 + i, 30));
  run.Submit(MakeRequest(100, 6, 20, kPoison));
  run.Submit(MakeRequest(101, 9, 20, kPoison));
  for (int i = 5; i <= 8; ++i) run.Submit(MakeRequest(i, 6 + i, 30));
  run.Expect({100, 101});
  EXPECT_EQ(run.losses(), 4);  // two together, one for each of them alone
}

TEST(Isolation, APoisonThatKillsOnlyInCompanyIsAnswered) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison) && firsts.size() > 1; });
  for (int i = 1; i <= 8; ++i) run.Submit(MakeRequest(i, 6 + i, 30));
  run.Submit(MakeRequest(100, 6, 20, kPoison));
  run.Expect({});
  EXPECT_LE(run.losses(), kMaxInCompany);
  EXPECT_GE(run.losses(), 2);
  const int losses = run.losses();
  run.Submit(MakeRequest(20, 8, 30));  // who comes later does not suffer
  run.Expect({});
  EXPECT_EQ(run.losses(), losses);
}

TEST(Isolation, TwoThatKillTogetherOnlyAreBothAnswered) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison) && Has(firsts, kOther); });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6 + i, 30));
  run.Submit(MakeRequest(100, 6, 20, kPoison));
  run.Submit(MakeRequest(101, 9, 20, kOther));
  run.Expect({});
  EXPECT_LE(run.losses(), kMaxInCompany);
}

// It gets a token each time: no two losses are without one, and yet it does not go on for ever.
TEST(Isolation, APoisonThatGetsOnBetweenIsFoundToo) {
  Isolated run;
  int plans = 0;
  run.cluster.DieOf([&](const auto& firsts) { return Has(firsts, kPoison) && ++plans % 4 == 0; });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6 + i, 60));
  run.Submit(MakeRequest(100, 6, 200, kPoison));
  run.Expect({100});
  EXPECT_LE(run.losses(), kMaxInCompany + kMaxLosses);
  EXPECT_GT(run.cluster.answer(100).tokens.size(), 3u);
}

TEST(Isolation, KillsFromOutsideAreNobodysFault) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
  for (int i = 1; i <= 8; ++i) run.Submit(MakeRequest(i, 6 + i, 40));
  run.Submit(MakeRequest(100, 6, 20, kPoison));
  int kills = 0;
  for (int k = 0; k < 12; ++k) {
    ASSERT_TRUE(run.cluster.RunUntilReady());
    run.cluster.KillRank(k % 4, k % 2 == 0 ? "killed by signal 9" : "stopped by signal 19");
    ++kills;
    run.cluster.RunUntil(run.cluster.now() + (k % 5) * kMillisecond);
  }
  run.Expect({100});
  EXPECT_LE(run.losses(), 3 + kills);
}

TEST(Isolation, DeathsFromOutsideAloneEndNothing) {
  Isolated run;
  run.Submit(MakeRequest(1, 6, 20));
  for (int k = 0; k < 8; ++k) {
    ASSERT_TRUE(run.cluster.RunUntilReady());
    run.cluster.KillRank(0, "killed by signal 9");
  }
  run.Expect({});
}

TEST(Isolation, ACauseThatAStepCanHaveCountsWhateverItIs) {
  for (const char* cause : {"killed by signal 7", "killed by signal 9: out of memory", "exited with 1: no memory",
                            "stuck in attention at step 7"}) {
    SCOPED_TRACE(cause);
    Isolated run;
    run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); }, cause);
    run.Submit(MakeRequest(1, 6, 20));
    run.Submit(MakeRequest(100, 6, 20, kPoison));
    run.Expect({100});
    EXPECT_EQ(run.losses(), 3);
    EXPECT_NE(std::string(run.cluster.answer(100).finish.error.message()).find(cause), std::string::npos);
  }
}

TEST(Isolation, AnswersWithAnErrorCount) {
  Isolated run;
  run.Submit(MakeRequest(1, 6, 20));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(run.cluster.RunUntilReady());
    run.cluster.FailStep("out of memory");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
  }
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Isolation, PoisonInALongPromptOfManyChunks) {
  Isolated run;
  int chunks = 0;
  run.cluster.DieOf([&](const auto& firsts) { return Has(firsts, kPoison) && ++chunks % 2 == 0; });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 6 + i, 40));
  run.Submit(MakeRequest(100, 200, 20, kPoison));  // more than a plan holds
  run.Expect({100});
  EXPECT_LE(run.losses(), kMaxInCompany + kMaxLosses);
}

// What is held back keeps its blocks as long as the suspect does not need them, and gives them up when it does.
TEST(Isolation, SuspectsGetBlocksFromThoseThatWait) {
  CoreOptions options = TestOptions();
  options.kv_blocks = 24;
  options.max_model_len = 80;
  options.max_num_seqs = 5;
  Isolated run(2, 2, options);
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
  for (int i = 1; i <= 4; ++i) run.Submit(MakeRequest(i, 12, 60));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.answer(4).tokens.size() > 2; }));
  run.Submit(MakeRequest(100, 40, 20, kPoison));
  run.Submit(MakeRequest(5, 20, 50));
  run.Expect({100});
  EXPECT_LE(run.losses(), 3);
}

TEST(Isolation, ASuspectThatIsCancelledLetsTheOthersGoOn) {
  Isolated run;
  run.cluster.DieOf([](const auto& firsts) { return Has(firsts, kPoison); });
  run.cluster.Submit(MakeRequest(100, 6, 20, kPoison));
  for (int i = 1; i <= 3; ++i) run.Submit(MakeRequest(i, 6 + i, 30));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.losses() == 1; }));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
  run.cluster.Cancel(100, CancelCause::kDisconnect);
  run.Expect({});
  EXPECT_EQ(run.losses(), 2);
}

// Poisons of all kinds, kills from outside, tight caches: innocents are answered in full, and it ends.
void RandomPoison(uint64_t seed) {
  SCOPED_TRACE(seed);
  uint64_t draws = 0;
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(RandomBits(seed, 6, ++draws) % static_cast<uint64_t>(high - low + 1));
  };
  CoreOptions options = TestOptions();
  options.max_model_len = 60;
  options.kv_blocks = 15 + draw(0, 40);
  options.max_num_seqs = draw(3, 16);
  options.max_num_batched_tokens = draw(8, 64);
  if (draw(0, 1) == 1) options.canary_interval = 50 * kMillisecond;
  Isolated run(draw(1, 2), draw(1, 3), options, seed);
  const int one_in = draw(1, 3);
  int plans = 0;
  run.cluster.DieOf([&, kind = draw(0, 2)](const auto& firsts) {
    if (!Has(firsts, kPoison)) return kind == 1 && Has(firsts, kOther) && firsts.size() > 1;
    return kind == 2 ? ++plans % one_in == 0 : true;
  });
  int poisons = 0, others = 0, kills = 0;
  std::set<RequestId> suspects;
  for (int i = 1; i <= 12; ++i) {
    const int kind = draw(0, 9);
    const int32_t first = kind == 0 ? kPoison : kind == 1 ? kOther : -1;
    poisons += kind == 0 ? 1 : 0;
    others += kind == 1 ? 1 : 0;
    run.requests.push_back(MakeRequest(i, draw(1, 20), draw(1, 30), first));
    if (kind == 0) suspects.insert(i);
    run.cluster.SubmitAt(run.cluster.now() + draw(0, 200) * kMillisecond, run.requests.back());
  }
  for (; kills < 3; ++kills) {
    run.cluster.RunUntil(run.cluster.now() + draw(0, 60) * kMillisecond);
    run.cluster.KillRank(0, "killed by signal 9");
  }
  ASSERT_TRUE(run.cluster.RunUntilAnswered()) << run.cluster.state().detail;
  // A poison that ended before its next deadly plan is answered; whoever ends otherwise is one.
  std::set<RequestId> ended;
  for (const GenerateRequest& r : run.requests) {
    if (run.cluster.answer(r.id).finish.reason == FinishReason::kError) ended.insert(r.id);
  }
  EXPECT_TRUE(std::includes(suspects.begin(), suspects.end(), ended.begin(), ended.end()));
  run.Expect(ended);
  // Each that kills: so often in company, counted anew whenever a poison was found, and so often alone.
  EXPECT_LE(run.losses(), kills + (poisons + others) * ((poisons + 1) * kMaxInCompany + kMaxLosses));
}

TEST(Isolation, RandomPoison) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    RandomPoison(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace shoal::core
