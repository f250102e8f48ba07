// Requests through the whole core and a simulated cluster, without failures.
#include <algorithm>
#include <bit>
#include <set>

#include "common/base/rng.h"
#include "gtest/gtest.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::ClusterTimes, sim::kVocab, sim::LoneRun, sim::TestOptions, sim::VirtualCluster;

GenerateRequest MakeRequest(RequestId id, int32_t prompt, int32_t max_tokens, uint64_t seed = 1) {
  GenerateRequest r;
  r.id = id;
  for (int32_t i = 0; i < prompt; ++i) r.prompt.push_back(static_cast<int32_t>(RandomBits(seed, id, i) % kVocab));
  r.max_tokens = max_tokens;
  return r;
}

// Every request has ended once, as it would have alone. `skip`: those that ended otherwise.
void ExpectAsAlone(const VirtualCluster& cluster, const std::vector<GenerateRequest>& requests,
                   const std::set<RequestId>& skip = {}) {
  EXPECT_TRUE(cluster.problems().empty()) << cluster.problems().front();
  for (const GenerateRequest& r : requests) {
    SCOPED_TRACE(r.id);
    const Answer& a = cluster.answer(r.id);
    ASSERT_EQ(a.finishes, 1);
    FinishReason reason;
    const std::vector<int32_t> alone = LoneRun(r, &reason);
    if (skip.contains(r.id)) {  // what came is how it would have gone on
      ASSERT_LE(a.tokens.size(), alone.size());
      EXPECT_TRUE(std::equal(a.tokens.begin(), a.tokens.end(), alone.begin()));
      continue;
    }
    EXPECT_EQ(a.tokens, alone);
    EXPECT_EQ(a.finish.reason, reason);
    EXPECT_EQ(a.finish.stats.output_tokens, static_cast<int32_t>(alone.size()));
  }
}

std::unique_ptr<VirtualCluster> ReadyCluster(const CoreOptions& options, uint64_t seed = 1, ClusterTimes times = {}) {
  auto cluster = std::make_unique<VirtualCluster>(options, times, seed);
  cluster->AddAgent({.id = "a", .slots = options.tp * options.pp});
  EXPECT_TRUE(cluster->RunUntilReady()) << cluster->state().detail;
  return cluster;
}

TEST(Serving, StepsOfTokensAloneNameABucketWhereRanksCanRecordThem) {
  CoreOptions options = TestOptions();
  options.checksum_interval = 3;
  options.pp = 2;
  struct Case {
    bool can;
    int32_t tp;
    std::string transport;
    bool named;
  };
  // Sums between tensor ranks lie within a step: over a host's transport they cannot be recorded.
  for (const Case& c :
       {Case{false, 1, "auto", false}, {true, 1, "auto", true}, {true, 2, "shm", false}, {true, 2, "nccl", true}}) {
    options.graphs = c.can;
    options.tp = c.tp;
    options.engine.transport = c.transport;
    const bool graphs = c.named;
    auto cluster = ReadyCluster(options);
    std::vector<GenerateRequest> requests;
    for (RequestId id = 1; id <= 3; ++id) requests.push_back(MakeRequest(id, 2 + 3 * static_cast<int32_t>(id), 20));
    for (const GenerateRequest& r : requests) cluster->Submit(r);
    ASSERT_TRUE(cluster->RunUntilAnswered());
    ExpectAsAlone(*cluster, requests);
    int named = 0, of_checksums = 0;
    for (const VirtualCluster::PlanTrace& plan : cluster->plans()) {
      const bool alike = plan.rows == plan.tokens && plan.decode_rows == plan.rows;
      if (alike) {
        EXPECT_EQ(plan.bucket, graphs && !plan.checksum ? plan::GraphBucket(plan.rows, 8) : 0);
      } else if (plan.tokens > plan.rows) {
        EXPECT_EQ(plan.bucket, 0);
      }
      named += plan.bucket > 0 ? 1 : 0;
      of_checksums += plan.checksum ? 1 : 0;
    }
    EXPECT_EQ(named > 10, graphs);
    EXPECT_EQ(of_checksums > 0, c.tp > 1) << "a lone tensor rank has nobody to agree with";
  }
}

TEST(Serving, OneRequest) {
  auto cluster = ReadyCluster(TestOptions());
  const GenerateRequest r = MakeRequest(1, 10, 20);
  cluster->Submit(r);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, {r});
  const RequestStats& stats = cluster->answer(1).finish.stats;
  EXPECT_EQ(stats.prompt_tokens, 10);
  EXPECT_LE(stats.arrived, stats.first_scheduled);
  EXPECT_LT(stats.first_scheduled, stats.first_token);
  EXPECT_LT(stats.first_token, stats.finished);
  const ClusterState state = cluster->state();
  EXPECT_EQ(state.kv_blocks_free, state.kv_blocks);
  EXPECT_EQ(state.running + state.waiting, 0);
  EXPECT_EQ(state.prompt_tokens, 10u);
  EXPECT_EQ(state.output_tokens, 20u);
  EXPECT_EQ(state.numerics_id, "numerics");
  ASSERT_EQ(state.ranks.size(), 1u);
}

TEST(Serving, SeededAndGreedyDiffer) {
  auto cluster = ReadyCluster(TestOptions());
  std::vector<GenerateRequest> requests;
  for (RequestId id = 1; id <= 3; ++id) {
    requests.push_back(MakeRequest(1, 10, 20));
    requests.back().id = id;
    requests.back().sampling.temperature = id == 1 ? 0 : 1;
    requests.back().sampling.seed = id;
    cluster->Submit(requests.back());
  }
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, requests);
  EXPECT_NE(cluster->answer(1).tokens, cluster->answer(2).tokens);
  EXPECT_NE(cluster->answer(2).tokens, cluster->answer(3).tokens);
}

TEST(Serving, StopTokenEndsAndIsNotPartOfTheAnswer) {
  auto cluster = ReadyCluster(TestOptions());
  GenerateRequest r = MakeRequest(1, 10, 50);
  FinishReason reason;
  r.stop_tokens = {LoneRun(r, &reason)[7], 4711};
  cluster->Submit(r);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, {r});
  EXPECT_LE(cluster->answer(1).tokens.size(), 7u);
  EXPECT_EQ(cluster->answer(1).finish.reason, FinishReason::kStop);
}

// Which shapes, caches and loads: everything that the seed decides.
void RandomRun(uint64_t seed) {
  SCOPED_TRACE(seed);
  uint64_t draws = 0;
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(RandomBits(seed, 2, ++draws) % static_cast<uint64_t>(high - low + 1));
  };
  CoreOptions o = TestOptions();
  o.tp = draw(1, 3);
  o.pp = draw(1, 3);
  o.max_num_seqs = draw(1, 40);
  o.max_num_batched_tokens = draw(2, 100);
  o.engine.block_size = draw(1, 8);
  o.max_model_len = draw(20, 60);
  o.kv_blocks = (o.max_model_len + o.engine.block_size - 1) / o.engine.block_size + draw(0, 30);
  ClusterTimes times;
  times.net_max = times.net_min + draw(0, 3000) * kMicrosecond;
  times.step_max = times.step_min + draw(0, 4000) * kMicrosecond;
  auto cluster = ReadyCluster(o, seed, times);

  std::vector<GenerateRequest> requests;
  std::set<RequestId> cancelled;
  const int count = draw(1, 24);
  const int spread_ms = draw(0, 100);
  for (int i = 1; i <= count; ++i) {
    const int prompt = draw(1, o.max_model_len - 1);
    GenerateRequest r = MakeRequest(i, prompt, draw(1, o.max_model_len - prompt), seed);
    r.sampling.temperature = static_cast<float>(draw(0, 1));
    r.sampling.seed = seed;
    if (draw(0, 2) == 0) r.stop_tokens = {draw(0, kVocab - 1), draw(0, kVocab - 1), draw(0, kVocab - 1)};
    const TimeNs at = cluster->now() + draw(0, spread_ms) * kMillisecond;
    cluster->SubmitAt(at, r);
    if (draw(0, 9) == 0) {
      cancelled.insert(i);
      const CancelCause cause = draw(0, 1) == 0 ? CancelCause::kDisconnect : CancelCause::kStopString;
      cluster->At(at + draw(0, 60) * kMillisecond, [c = cluster.get(), i, cause] { c->Cancel(i, cause); });
    }
    requests.push_back(std::move(r));
  }
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, requests, cancelled);
  EXPECT_LE(cluster->max_unanswered(), 2);
  EXPECT_LE(cluster->max_in_flight(), o.pp + 1);
  const ClusterState state = cluster->state();
  EXPECT_EQ(state.kv_blocks_free, state.kv_blocks);
}

TEST(Serving, AsAloneUnderRandomShapesCachesAndArrivals) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    RandomRun(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

// 32 requests that arrive at random, in a cache so small that nearly all of them are preempted.
void Preempted(int32_t tp, int32_t pp) {
  CoreOptions o = TestOptions();
  o.tp = tp;
  o.pp = pp;
  o.max_model_len = 64;
  o.kv_blocks = 40;
  o.max_num_seqs = 32;
  auto cluster = ReadyCluster(o);
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= 32; ++i) {
    requests.push_back(MakeRequest(i, 4 + i % 5, 50));
    requests.back().sampling.temperature = static_cast<float>(i % 2);
    requests.back().sampling.seed = static_cast<uint64_t>(i);
    cluster->SubmitAt(cluster->now() + static_cast<TimeNs>(RandomBits(1, 3, i) % 20) * kMillisecond, requests.back());
  }
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, requests);
  int preempted = 0;
  uint64_t total = 0;
  for (const auto& [id, a] : cluster->answers()) {
    preempted += a.finish.stats.preemptions > 0 ? 1 : 0;
    total += static_cast<uint64_t>(a.finish.stats.preemptions);
  }
  EXPECT_GE(preempted, 24);
  EXPECT_EQ(cluster->state().preemptions, total);
  std::printf("figure: null ranks, tp %d pp %d: %d of 32 preempted, %d times in all, %d plans\n", tp, pp, preempted,
              static_cast<int>(total), static_cast<int>(cluster->plans().size()));
}

TEST(Serving, AsAloneWhenPreempted) { Preempted(1, 1); }
TEST(Serving, AsAloneWhenPreemptedTwoRanks) { Preempted(2, 1); }
TEST(Serving, AsAloneWhenPreemptedTwoStages) { Preempted(1, 2); }
TEST(Serving, AsAloneWhenPreemptedThreeStages) { Preempted(3, 3); }

TEST(Serving, NextPlanIsSentBeforeTheStepEnds) {
  for (int32_t pp : {1, 2, 3}) {
    CoreOptions o = TestOptions();
    o.pp = pp;
    auto cluster = ReadyCluster(o);
    for (int i = 1; i <= 6; ++i) cluster->Submit(MakeRequest(i, 8, 100));
    ASSERT_TRUE(cluster->RunUntilAnswered());
    int decode = 0, ahead = 0;
    const auto& plans = cluster->plans();
    for (size_t i = 0; i + 1 < plans.size(); ++i) {
      if (plans[i].decode_rows == 0) continue;
      ++decode;
      ahead += plans[i + 1].sent < plans[i].ended ? 1 : 0;
    }
    EXPECT_GE(decode, 100) << pp;
    EXPECT_GE(ahead, decode * 95 / 100) << pp;
    EXPECT_EQ(cluster->max_unanswered(), 2) << pp;
    EXPECT_EQ(cluster->max_in_flight(), pp + 1) << pp;
  }
}

TEST(Serving, CohortsTakeTurnsAndKeepEveryStageBusy) {
  for (int32_t pp : {2, 3}) {
    CoreOptions o = TestOptions();
    o.pp = pp;
    auto cluster = ReadyCluster(o, 1, {.step_min = kMillisecond, .step_max = kMillisecond});
    const TimeNs began = cluster->now();
    for (int i = 1; i <= 12; ++i) cluster->Submit(MakeRequest(i, 8, 120));
    ASSERT_TRUE(cluster->RunUntilAnswered());
    const auto& plans = cluster->plans();
    int turns = 0, total = 0;
    for (size_t i = 10; i + 10 < plans.size(); ++i, ++total) {
      turns += plans[i + 1].cohort == (plans[i].cohort + 1) % pp ? 1 : 0;
      EXPECT_EQ(plans[i].decode_rows, 12 / pp);
    }
    EXPECT_EQ(turns, total);
    for (int stage = 0; stage < pp; ++stage) {
      EXPECT_GE(cluster->stage_busy(stage), (cluster->now() - began) * 90 / 100) << stage << " of " << pp;
    }
  }
}

TEST(Serving, CohortsAreRefilledWhenOneRunsDry) {
  CoreOptions o = TestOptions();
  o.pp = 2;
  // Four of eight are short, in every way to choose them: in some, one cohort has none of the long ones.
  for (unsigned shorts = 0; shorts < 256; ++shorts) {
    if (std::popcount(shorts) != 4) continue;
    auto cluster = ReadyCluster(o, 1, {.step_min = kMillisecond, .step_max = kMillisecond});
    for (int i = 0; i < 8; ++i) cluster->Submit(MakeRequest(i + 1, 4, (shorts >> i & 1) != 0 ? 5 : 60));
    ASSERT_TRUE(cluster->RunUntilAnswered());
    int plans[2] = {0, 0};
    for (size_t i = cluster->plans().size() / 2; i + 10 < cluster->plans().size(); ++i) {
      const auto& plan = cluster->plans()[i];
      ++plans[plan.cohort];
      EXPECT_EQ(plan.decode_rows, 2) << shorts;
    }
    EXPECT_GE(plans[0], 20) << shorts;
    EXPECT_NEAR(plans[0], plans[1], 2) << shorts;
  }
}

TEST(Serving, LongPromptsAreChunkedAndDecodeGoesOn) {
  CoreOptions o = TestOptions();
  o.max_num_batched_tokens = 16;
  auto cluster = ReadyCluster(o);
  std::vector<GenerateRequest> requests = {MakeRequest(1, 4, 100), MakeRequest(2, 150, 20)};
  cluster->Submit(requests[0]);
  cluster->RunUntil(cluster->now() + 20 * kMillisecond);
  cluster->Submit(requests[1]);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, requests);
  int mixed = 0;
  for (const auto& plan : cluster->plans()) {
    EXPECT_LE(plan.tokens, 16);
    mixed += plan.decode_rows == 1 && plan.tokens == 16 ? 1 : 0;
  }
  EXPECT_GE(mixed, 9);
}

TEST(Serving, QueueIsBoundedAndSaysWhenToComeBack) {
  CoreOptions o = TestOptions();
  o.max_num_seqs = 2;
  o.max_queued_requests = 15;
  auto cluster = ReadyCluster(o);
  for (int i = 1; i <= 6; ++i) cluster->Submit(MakeRequest(i, 4, 200));
  ASSERT_TRUE(cluster->RunUntilAnswered());  // two in about 0.4 s: the rate is known now
  for (int i = 11; i <= 40; ++i) cluster->Submit(MakeRequest(i, 4, 200));
  cluster->RunUntil(cluster->now() + 10 * kMillisecond);
  int refused = 0;
  for (int i = 11; i <= 40; ++i) {
    const Answer& a = cluster->answer(i);
    if (a.finishes == 0) continue;
    ++refused;
    EXPECT_EQ(a.finish.error.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(a.finish.retry_after_s, 3);  // 16 at two in about 0.4 s
    EXPECT_TRUE(a.tokens.empty());
  }
  EXPECT_EQ(refused, 30 - 2 - 15);
  ASSERT_TRUE(cluster->RunUntilAnswered());
}

TEST(Serving, WhatCanNeverBeServedIsRefused) {
  auto cluster = ReadyCluster(TestOptions());
  std::vector<GenerateRequest> bad(6, MakeRequest(0, 4, 4));
  bad[0].max_tokens = 253;
  bad[1].prompt.clear();
  bad[2].max_tokens = 0;
  bad[3].prompt[1] = kVocab;
  bad[4].sampling.top_p = 0;
  bad[5].sampling.presence_penalty = 1000;
  for (size_t i = 0; i < bad.size(); ++i) {
    bad[i].id = i + 1;
    cluster->Submit(bad[i]);
    EXPECT_EQ(cluster->answer(i + 1).finishes, 1);
    EXPECT_EQ(cluster->answer(i + 1).finish.error.code(), absl::StatusCode::kInvalidArgument) << i;
  }
  GenerateRequest just = MakeRequest(9, 4, 252);
  cluster->Submit(just);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, {just});
}

TEST(Serving, CancelEndsAtOnceAndFreesBlocks) {
  auto cluster = ReadyCluster(TestOptions());
  for (int i = 1; i <= 3; ++i) cluster->Submit(MakeRequest(i, 4, 200));
  cluster->RunUntil(cluster->now() + 50 * kMillisecond);
  cluster->Cancel(1, CancelCause::kDisconnect);
  cluster->Cancel(2, CancelCause::kStopString);
  cluster->Cancel(2, CancelCause::kDisconnect);  // it has ended
  cluster->Cancel(99, CancelCause::kDisconnect);
  EXPECT_EQ(cluster->answer(1).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(cluster->answer(2).finish.reason, FinishReason::kStop);
  EXPECT_TRUE(cluster->answer(1).finish.error.ok());
  EXPECT_EQ(cluster->state().running, 1);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, {MakeRequest(3, 4, 200)});
  EXPECT_EQ(cluster->answer(2).finishes, 1);
}

TEST(Serving, NotANumberHarmsOnlyItsRequest) {
  auto cluster = ReadyCluster(TestOptions());
  cluster->PoisonRequestsWith(5);
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= 4; ++i) {
    requests.push_back(MakeRequest(i, 4, 30));
    requests.back().prompt[0] = i == 2 ? 5 : 6;
    cluster->Submit(requests.back());
  }
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, requests, {2});
  EXPECT_EQ(cluster->answer(2).finish.error.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(cluster->answer(2).tokens.empty());
  EXPECT_EQ(cluster->state().groups_formed, 1u);
}

TEST(Serving, RepeatedAnswersAreIgnoredAndCounted) {
  auto cluster = ReadyCluster(TestOptions());
  cluster->RepeatAnswers();
  const GenerateRequest r = MakeRequest(1, 10, 20);
  cluster->Submit(r);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  ExpectAsAlone(*cluster, {r});
  EXPECT_GE(cluster->state().stale[static_cast<size_t>(plan::StalePlace::kAnswer)], 19u);
  EXPECT_EQ(cluster->state().groups_formed, 1u);
}

TEST(Serving, SameEventsSamePlans) {
  const auto run = [] {
    CoreOptions o = TestOptions();
    o.pp = 2;
    o.kv_blocks = 64;
    auto cluster = ReadyCluster(o, 5);
    for (int i = 1; i <= 20; ++i) cluster->Submit(MakeRequest(i, 4 + i, 30));
    EXPECT_TRUE(cluster->RunUntilAnswered());
    return cluster;
  };
  const auto a = run(), b = run();
  ASSERT_EQ(a->plans().size(), b->plans().size());
  for (size_t i = 0; i < a->plans().size(); ++i) EXPECT_EQ(a->plans()[i].bytes_hash, b->plans()[i].bytes_hash);
}

TEST(Serving, ShutdownFinishesWhatWasAcceptedAndAdmitsNothing) {
  CoreOptions o = TestOptions();
  o.max_num_seqs = 2;
  auto cluster = ReadyCluster(o);
  for (int i = 1; i <= 4; ++i) cluster->Submit(MakeRequest(i, 4, 100));
  cluster->RunUntil(cluster->now() + 20 * kMillisecond);
  cluster->Post(ShutdownRequested{});
  EXPECT_EQ(cluster->state().phase, ClusterState::Phase::kDraining);
  cluster->Submit(MakeRequest(5, 4, 10));
  EXPECT_EQ(cluster->answer(5).finish.error.code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(cluster->RunUntilAnswered());
  // The last two were queued when it came.
  ExpectAsAlone(*cluster,
                {MakeRequest(1, 4, 100), MakeRequest(2, 4, 100), MakeRequest(3, 4, 100), MakeRequest(4, 4, 100)});
}

}  // namespace
}  // namespace shoal::core
