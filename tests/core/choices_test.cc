// Several answers to one prompt, log-probabilities, and what becomes of them under pressure and losses.
#include <algorithm>
#include <set>

#include "common/base/rng.h"
#include "coordinator/core/quarantine.h"
#include "gtest/gtest.h"
#include "tests/core/requests.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::ClusterTimes, sim::kVocab, sim::TestOptions, sim::VirtualCluster;

std::unique_ptr<VirtualCluster> ReadyCluster(const CoreOptions& options, uint64_t seed = 1, ClusterTimes times = {}) {
  auto cluster = std::make_unique<VirtualCluster>(options, times, seed);
  cluster->AddAgent({.id = "a", .slots = options.tp * options.pp});
  EXPECT_TRUE(cluster->RunUntilReady()) << cluster->state().detail;
  return cluster;
}

GenerateRequest Sampled(RequestId id, int32_t prompt, int32_t max_tokens, int32_t n) {
  GenerateRequest r = MakeRequest(id, prompt, max_tokens);
  r.n = n;
  r.sampling.temperature = 1;
  r.sampling.seed = 40 + id;
  return r;
}

// All choices, and what goes along with them, are as they are alone.
void ExpectAllAsAlone(const VirtualCluster& cluster, const GenerateRequest& r) {
  SCOPED_TRACE(r.id);
  EXPECT_TRUE(cluster.problems().empty()) << cluster.problems().front();
  const Answer& a = cluster.answer(r.id);
  ASSERT_EQ(a.finishes, 1);
  ASSERT_EQ(a.ended.size(), static_cast<size_t>(r.n - 1)) << a.finish.error;
  int32_t tokens = 0;
  for (int32_t choice = 0; choice < r.n; ++choice) {
    FinishReason reason;
    EXPECT_EQ(a.TokensOf(choice), sim::LoneRun(r, &reason, choice)) << choice;
    EXPECT_EQ(a.ended.contains(choice) ? a.ended.at(choice) : a.finish.reason, reason) << choice;
    const auto logprobs = a.logprobs.find(choice);
    if (logprobs != a.logprobs.end()) {
      EXPECT_EQ(logprobs->second, sim::LoneLogprobs(r, choice)) << choice;
    }
    tokens += static_cast<int32_t>(a.TokensOf(choice).size());
  }
  EXPECT_EQ(a.prompt_logprobs, sim::LonePrompt(r));
  EXPECT_EQ(a.finish.stats.output_tokens, tokens);
  EXPECT_EQ(a.finish.stats.prompt_tokens, static_cast<int32_t>(r.prompt.size()));
}

int32_t PlannedTokens(const VirtualCluster& cluster) {
  int32_t tokens = 0;
  for (const auto& plan : cluster.plans()) tokens += plan.tokens;
  return tokens;
}

TEST(Choices, ThePromptIsComputedOnceAndItsBlocksAreShared) {
  for (const int32_t prompt : {1, 3, 4, 5, 8, 37, 40, 41}) {
    for (const int32_t pp : {1, 3}) {
      SCOPED_TRACE(prompt);
      CoreOptions o = TestOptions();
      o.pp = pp;
      auto cluster = ReadyCluster(o);
      const GenerateRequest r = Sampled(1, prompt, 10, 4);
      cluster->Submit(r);
      // A block more for each than the prompt has: they would not fit if each had its own.
      int32_t most = 0;
      while (cluster->answer(1).finishes == 0) {
        cluster->RunUntil(cluster->now() + kMillisecond);
        most = std::max(most, cluster->state().kv_blocks - cluster->state().kv_blocks_free);
      }
      ExpectAllAsAlone(*cluster, r);
      std::set<std::vector<int32_t>> different;
      for (int32_t c = 0; c < 4; ++c) different.insert(cluster->answer(1).TokensOf(c));
      EXPECT_EQ(different.size(), 4u);
      // The prompt, its last token once more for each of the others, and the tokens but the last; two overshoot.
      EXPECT_LE(PlannedTokens(*cluster), prompt + 3 + 4 * (9 + 2));
      const int32_t shared = (prompt - 1) / 4;
      EXPECT_LE(most, shared + 4 * ((prompt + 10 + 3) / 4 - shared));
      EXPECT_EQ(cluster->state().kv_blocks_free, cluster->state().kv_blocks);
      EXPECT_EQ(cluster->state().prompt_tokens, static_cast<uint64_t>(prompt));
    }
  }
}

TEST(Choices, EachHasItsOwnEnd) {
  auto cluster = ReadyCluster(TestOptions());
  GenerateRequest r = Sampled(1, 9, 40, 3);
  FinishReason reason;
  const std::vector<int32_t> second = sim::LoneRun(r, &reason, 1);
  const auto sizes = [&] {
    std::set<size_t> found;
    for (int32_t choice = 0; choice < r.n; ++choice) found.insert(sim::LoneRun(r, &reason, choice).size());
    return found.size();
  };
  for (size_t i = 0; i < second.size() && sizes() < 3; ++i) r.stop_tokens = {second[i]};
  ASSERT_EQ(sizes(), 3u);
  cluster->Submit(r);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAllAsAlone(*cluster, r);
}

TEST(Choices, AStopStringEndsOneAndACancelAll) {
  auto cluster = ReadyCluster(TestOptions());
  const GenerateRequest r = Sampled(1, 9, 200, 3);
  cluster->Submit(r);
  cluster->RunUntil(cluster->now() + 50 * kMillisecond);
  cluster->Cancel(1, CancelCause::kStopString, 1);
  cluster->Cancel(1, CancelCause::kStopString, 1);  // it has ended
  cluster->Cancel(1, CancelCause::kStopString, 7);  // there is no such
  EXPECT_EQ(cluster->answer(1).ended.at(1), FinishReason::kStop);
  EXPECT_EQ(cluster->state().running, 2);
  const size_t tokens = cluster->answer(1).TokensOf(1).size();
  cluster->RunUntil(cluster->now() + 50 * kMillisecond);
  EXPECT_EQ(cluster->answer(1).TokensOf(1).size(), tokens);
  EXPECT_EQ(cluster->answer(1).finishes, 0);
  cluster->Cancel(1, CancelCause::kDisconnect);
  EXPECT_EQ(cluster->answer(1).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(cluster->state().running + cluster->state().waiting, 0);

  const GenerateRequest other = Sampled(2, 9, 200, 2);
  cluster->Submit(other);
  cluster->RunUntil(cluster->now() + 50 * kMillisecond);
  cluster->Cancel(2, CancelCause::kStopString, 0);
  EXPECT_EQ(cluster->answer(2).finishes, 0);
  cluster->Cancel(2, CancelCause::kStopString, 1);
  EXPECT_EQ(cluster->answer(2).finish.reason, FinishReason::kStop);
  EXPECT_TRUE(cluster->problems().empty());
}

TEST(Choices, NoMoreThanMayRunAtOnceAndAllCountInTheQueue) {
  CoreOptions o = TestOptions();
  o.max_num_seqs = 3;
  o.max_queued_requests = 2;
  auto cluster = ReadyCluster(o);
  cluster->Submit(Sampled(1, 4, 10, 4));
  EXPECT_EQ(cluster->answer(1).finish.error.code(), absl::StatusCode::kInvalidArgument);
  const GenerateRequest r = Sampled(2, 4, 100, 3);
  cluster->Submit(r);
  EXPECT_EQ(cluster->answer(2).finishes, 0);
  cluster->Submit(Sampled(3, 4, 10, 3));
  EXPECT_EQ(cluster->answer(3).finish.error.code(), absl::StatusCode::kResourceExhausted);
  cluster->Submit(Sampled(4, 4, 10, 2));
  EXPECT_EQ(cluster->answer(4).finishes, 0);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAllAsAlone(*cluster, r);
  ExpectAllAsAlone(*cluster, Sampled(4, 4, 10, 2));
}

TEST(Choices, LogProbabilitiesOfPromptsComeInOrderAndOncePerRequest) {
  for (const int32_t seqs : {1, 3, 8}) {
    for (const int32_t pp : {1, 2}) {
      CoreOptions o = TestOptions();
      o.max_num_seqs = seqs;
      o.max_num_batched_tokens = 16;
      o.pp = pp;
      auto cluster = ReadyCluster(o);
      std::vector<GenerateRequest> requests;
      for (RequestId id = 1; id <= 6; ++id) {
        requests.push_back(Sampled(id, 1 + 9 * static_cast<int32_t>(id - 1), 12, std::min(seqs, 2)));
        requests.back().sampling.logprobs = static_cast<int32_t>(id) % 3;
        if (id % 3 != 0) requests.back().sampling.prompt_logprobs = static_cast<int32_t>(id) % 3;
        cluster->Submit(requests.back());
      }
      ASSERT_TRUE(cluster->RunUntilAnswered());
      for (const GenerateRequest& r : requests) ExpectAllAsAlone(*cluster, r);
      EXPECT_EQ(cluster->answer(5).prompt_logprobs.size(), 36u);
      EXPECT_EQ(cluster->answer(5).logprobs.at(0).size(), 12u);
    }
  }
}

// Shapes, caches and loads that the seed decides; ranks die now and then, and their caches may be lost.
void RandomRun(uint64_t seed, bool losses) {
  SCOPED_TRACE(seed);
  uint64_t draws = 0;
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(RandomBits(seed, 5, ++draws) % static_cast<uint64_t>(high - low + 1));
  };
  CoreOptions o = TestOptions();
  o.tp = draw(1, 2);
  o.pp = draw(1, 3);
  o.max_num_seqs = draw(1, 12);
  o.max_num_batched_tokens = draw(2, 60);
  o.engine.block_size = draw(1, 8);
  o.max_model_len = draw(20, 60);
  o.kv_blocks = (o.max_model_len + o.engine.block_size - 1) / o.engine.block_size + draw(0, 30);
  auto cluster = ReadyCluster(o, seed);
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= draw(1, 10); ++i) {
    const int prompt = draw(1, o.max_model_len - 1);
    const int most = std::min({4, o.max_num_seqs, o.max_num_batched_tokens});
    GenerateRequest r = Sampled(i, prompt, draw(1, o.max_model_len - prompt), draw(1, most));
    r.sampling.temperature = static_cast<float>(draw(0, 1));
    r.sampling.seed = seed;
    if (draw(0, 2) == 0) r.stop_tokens = {draw(0, kVocab - 1), draw(0, kVocab - 1), draw(0, kVocab - 1)};
    r.sampling.logprobs = draw(-1, 2);
    r.sampling.prompt_logprobs = draw(-2, 2) < 0 ? -1 : draw(0, 2);
    if (draw(0, 1) == 0) r.sampling.presence_penalty = 0.5f;
    cluster->SubmitAt(cluster->now() + draw(0, 50) * kMillisecond, r);
    requests.push_back(std::move(r));
  }
  for (int k = losses ? draw(1, 4) : 0; k > 0; --k) {
    const TimeNs at = cluster->now() + draw(1, 100) * kMillisecond;
    if (draw(0, 2) == 0) {
      cluster->At(at, [c = cluster.get(), slots = o.tp * o.pp] { c->AddAgent({.id = "a", .slots = slots}); });
    } else {
      const int32_t rank = draw(0, o.tp * o.pp - 1);
      cluster->At(at, [c = cluster.get(), rank] { c->KillRank(rank, "killed by signal 9"); });
    }
  }
  ASSERT_TRUE(cluster->RunUntilAnswered());
  for (const GenerateRequest& r : requests) ExpectAllAsAlone(*cluster, r);
  EXPECT_EQ(cluster->state().kv_blocks_free, cluster->state().kv_blocks);
}

TEST(Choices, AsAloneUnderRandomShapesCachesAndArrivals) {
  for (uint64_t seed = 1; seed <= 300 && !HasFailure(); ++seed) RandomRun(seed, false);
}

TEST(Choices, AsAloneWhenRanksAndCachesAreLost) {
  for (uint64_t seed = 1; seed <= 300 && !HasFailure(); ++seed) RandomRun(seed, true);
}

// After a loss with caches that are still there, siblings go on with the blocks that they share.
TEST(Choices, SharedBlocksSurviveALossOfTheRanks) {
  CoreOptions o = TestOptions();
  o.pp = 2;
  auto cluster = ReadyCluster(o);
  const GenerateRequest r = Sampled(1, 41, 60, 4);
  cluster->Submit(r);
  cluster->RunUntil(cluster->now() + 60 * kMillisecond);
  const int32_t held = cluster->state().kv_blocks - cluster->state().kv_blocks_free;
  EXPECT_LT(held, 10 + 4 * 8);
  ASSERT_TRUE(cluster->KillRank(1, "killed by signal 9"));
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAllAsAlone(*cluster, r);
  EXPECT_EQ(cluster->state().resumed, 4u);
  EXPECT_EQ(cluster->state().recomputed_tokens, 0u);
}

// A choice that is ended while there is no group leaves its siblings what they share.
TEST(Choices, AStopStringMayComeWhileTheRanksAreGone) {
  auto cluster = ReadyCluster(TestOptions());
  const GenerateRequest r = Sampled(1, 41, 60, 3);
  cluster->Submit(r);
  cluster->RunUntil(cluster->now() + 60 * kMillisecond);
  ASSERT_TRUE(cluster->KillRank(0, "killed by signal 9"));
  ASSERT_TRUE(cluster->RunUntil([&] { return cluster->state().phase != ClusterState::Phase::kReady; }));
  const std::vector<int32_t> had = cluster->answer(1).TokensOf(0);
  cluster->Cancel(1, CancelCause::kStopString, 0);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  EXPECT_EQ(cluster->answer(1).TokensOf(0), had);
  for (const int32_t choice : {1, 2}) {
    FinishReason reason;
    EXPECT_EQ(cluster->answer(1).TokensOf(choice), sim::LoneRun(r, &reason, choice));
  }
  EXPECT_EQ(cluster->state().recomputed_tokens, 0u);
  EXPECT_TRUE(cluster->problems().empty());
}

// One request that kills whenever it runs is poison, however many answers it asks for; the others are as alone.
TEST(Choices, PoisonWithManyChoicesIsFoundAsAnyOther) {
  auto cluster = ReadyCluster(TestOptions());
  cluster->KillRanksWith(5);
  GenerateRequest bad = Sampled(1, 8, 20, 4), good = Sampled(2, 8, 20, 4);
  bad.prompt[0] = 5;
  good.prompt[0] = 6;
  cluster->Submit(good);
  cluster->Submit(bad);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  EXPECT_EQ(cluster->answer(1).finish.error.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_LE(cluster->state().groups_formed, 1u + kMaxLosses);
  ExpectAllAsAlone(*cluster, good);
}

}  // namespace
}  // namespace shoal::core
