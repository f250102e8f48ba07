// What a scrape shows: names, labels, buckets and values that dashboards rely on.
#include "coordinator/metrics/metrics.h"

#include <gtest/gtest.h>

#include "coordinator/metrics/process.h"

namespace shoal::metrics {
namespace {

core::ClusterState State() {
  core::ClusterState state{};
  state.phase = core::ClusterState::Phase::kReady;
  state.running = 3;
  state.waiting = 5;
  state.kv_blocks = 200;
  state.kv_blocks_free = 150;
  state.block_size = 16;
  state.preemptions = 4;
  state.resumed = 2;
  state.recomputed_tokens = 31;
  state.poisoned = 3;
  state.canary_failures = 7;
  state.mismatches = {{0, 8}};
  state.reforms = 6;
  state.prompt_tokens = 90;
  state.epoch = 2;
  core::ClusterState::Rank rank{};
  rank.hostname = "h";
  rank.status.state = plan::RankState::kRunning;
  rank.status.comm_bytes = {{"shm", 0}, {"gloo", 77}};
  state.ranks.push_back(rank);
  rank.rank = 1;
  rank.stage = 1;
  rank.status.state = plan::RankState::kDead;
  rank.own_time = 250 * kMillisecond;
  rank.straggles = true;
  state.ranks.push_back(rank);
  return state;
}

void ExpectLine(const std::string& text, const std::string& line) {
  EXPECT_NE(("\n" + text).find("\n" + line + "\n"), std::string::npos) << line << "\n" << text;
}

TEST(Metrics, GaugesFollowTheState) {
  Metrics metrics("m");
  std::string text = metrics.Render(State());
  ExpectLine(text, R"(vllm:num_requests_running{engine="0",model_name="m"} 3)");
  ExpectLine(text, R"(vllm:num_requests_waiting{engine="0",model_name="m"} 5)");
  ExpectLine(text, R"(vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25)");
  ExpectLine(text, R"(vllm:cache_config_info{block_size="16",engine="0",model_name="m",num_gpu_blocks="200"} 1)");
  ExpectLine(text, R"(vllm:num_preemptions_total{engine="0",model_name="m"} 4)");
  ExpectLine(text, R"(shoal:sequences_resumed_total{engine="0",model_name="m"} 2)");
  ExpectLine(text, R"(shoal:recomputed_tokens_total{engine="0",model_name="m"} 31)");
  ExpectLine(text, R"(shoal:poisoned_requests_total{engine="0",model_name="m"} 3)");
  ExpectLine(text, R"(shoal:canary_failures_total{engine="0",model_name="m"} 7)");
  ExpectLine(text, R"(shoal:hidden_state_mismatches_total{rank="0"} 8)");
  ExpectLine(text, R"(shoal:reforms_total{engine="0",model_name="m"} 6)");
  ExpectLine(text, R"(shoal:rank_up{node="h",pp="0",rank="0",tp="0"} 1)");
  ExpectLine(text, R"(shoal:rank_up{node="h",pp="1",rank="1",tp="0"} 0)");
  ExpectLine(text, R"(shoal:rank_step_seconds{node="h",pp="1",rank="1",tp="0"} 0.25)");
  ExpectLine(text, R"(shoal:rank_straggler{node="h",pp="0",rank="0",tp="0"} 0)");
  ExpectLine(text, R"(shoal:rank_straggler{node="h",pp="1",rank="1",tp="0"} 1)");
  ExpectLine(text, R"(shoal:rank_comm_bytes{node="h",pp="0",rank="0",tp="0",transport="gloo"} 77)");
  ExpectLine(text, R"(shoal:rank_comm_bytes{node="h",pp="0",rank="0",tp="0",transport="shm"} 0)");
  ExpectLine(text, R"(vllm:prompt_tokens_total{engine="0",model_name="m"} 90)");
  core::ClusterState later = State();
  later.prompt_tokens = 100;
  later.preemptions = 6;
  later.mismatches[0] = 10;
  later.kv_blocks = later.kv_blocks_free = 100;
  later.ranks.resize(1);
  text = metrics.Render(later);
  ExpectLine(text, R"(vllm:num_preemptions_total{engine="0",model_name="m"} 6)");
  ExpectLine(text, R"(shoal:hidden_state_mismatches_total{rank="0"} 10)");
  ExpectLine(text, R"(vllm:cache_config_info{block_size="16",engine="0",model_name="m",num_gpu_blocks="100"} 1)");
  ExpectLine(text, R"(vllm:prompt_tokens_total{engine="0",model_name="m"} 100)");
  EXPECT_EQ(text.find(R"(num_gpu_blocks="200")"), std::string::npos);
  EXPECT_EQ(text.find(R"(rank="1")"), std::string::npos);  // ranks that are gone are gone
}

TEST(Metrics, WhatIsCountedOutsideOfTheCore) {
  Metrics metrics("m");
  ExpectLine(metrics.Render(State()), R"(shoal:stale_total{where="join"} 0)");
  Beside beside;
  beside.stale[static_cast<size_t>(plan::StalePlace::kPlan)] = 3;
  beside.journal = {4, 500, 6, 7, 8};
  metrics.Render(State(), beside);
  beside.stale[static_cast<size_t>(plan::StalePlace::kPlan)] = 2;  // seen late: a counter does not fall
  const std::string text = metrics.Render(State(), beside);
  ExpectLine(text, R"(shoal:stale_total{where="plan"} 3)");
  ExpectLine(text, R"(shoal:stale_total{where="frame"} 0)");
  ExpectLine(text, R"(shoal:journal_entries{engine="0",model_name="m"} 4)");
  ExpectLine(text, R"(shoal:journal_bytes{engine="0",model_name="m"} 500)");
  ExpectLine(text, R"(shoal:journal_accepted_total{engine="0",model_name="m"} 6)");
  ExpectLine(text, R"(shoal:journal_answered_again_total{engine="0",model_name="m"} 7)");
  ExpectLine(text, R"(shoal:journal_full_total{engine="0",model_name="m"} 8)");
}

TEST(Metrics, AnIdleServerShowsZeroesNotNothing) {
  const std::string text = Metrics("m").Render(core::ClusterState{});
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    ExpectLine(text, std::string(R"(vllm:request_success_total{engine="0",finished_reason=")") + reason +
                         R"(",model_name="m"} 0)");
  }
  ExpectLine(text, R"(vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0)");
  EXPECT_EQ(text.find("nan"), std::string::npos);
}

TEST(Metrics, ARequestFromFirstTokenToEnd) {
  Metrics metrics("m");
  metrics.OnFirstToken(30 * kMillisecond);
  metrics.OnTokens(1, 0);
  metrics.OnTokens(2, 60 * kMillisecond);
  RequestEnd end;
  end.reason = core::FinishReason::kLength;
  end.max_tokens = 3;
  end.stats.prompt_tokens = 7;
  end.stats.output_tokens = 3;
  end.stats.arrived = 1 * kSecond;
  end.stats.first_scheduled = 2 * kSecond;
  end.stats.first_token = 4 * kSecond;
  end.stats.finished = 8 * kSecond;
  metrics.OnRequestEnd(end);
  const std::string text = metrics.Render({});
  const std::string labels = R"({engine="0",model_name="m"})";
  ExpectLine(text, "vllm:generation_tokens_total" + labels + " 3");
  ExpectLine(text, R"(vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.02"} 0)");
  ExpectLine(text, R"(vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.04"} 1)");
  ExpectLine(text, R"(vllm:inter_token_latency_seconds_bucket{engine="0",model_name="m",le="0.05"} 0)");
  ExpectLine(text, R"(vllm:inter_token_latency_seconds_bucket{engine="0",model_name="m",le="0.075"} 1)");
  ExpectLine(text, "vllm:e2e_request_latency_seconds_sum" + labels + " 7");
  ExpectLine(text, "vllm:request_queue_time_seconds_sum" + labels + " 1");
  ExpectLine(text, "vllm:request_prefill_time_seconds_sum" + labels + " 2");
  ExpectLine(text, "vllm:request_decode_time_seconds_sum" + labels + " 4");
  ExpectLine(text, "vllm:request_inference_time_seconds_sum" + labels + " 6");
  ExpectLine(text, "vllm:request_time_per_output_token_seconds_sum" + labels + " 2");
  ExpectLine(text, "vllm:request_prompt_tokens_sum" + labels + " 7");
  ExpectLine(text, "vllm:request_generation_tokens_sum" + labels + " 3");
  ExpectLine(text, "vllm:request_params_max_tokens_sum" + labels + " 3");
  ExpectLine(text, R"(vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 1)");
}

TEST(Metrics, AnAnswerWhoseFirstTokenWasItsLastHasATimeToIt) {
  Metrics metrics("m");
  RequestEnd end;
  end.stats.arrived = 1 * kSecond;
  end.stats.first_scheduled = 2 * kSecond;
  end.stats.first_token = 4 * kSecond;
  end.stats.finished = 4 * kSecond;
  metrics.OnRequestEnd(end);
  const std::string labels = R"({engine="0",model_name="m"})";
  ExpectLine(metrics.Render({}), "vllm:time_to_first_token_seconds_sum" + labels + " 3");
  end.stats.output_tokens = 1;  // was timed when it left
  metrics.OnRequestEnd(end);
  ExpectLine(metrics.Render({}), "vllm:time_to_first_token_seconds_sum" + labels + " 3");
}

TEST(Metrics, WhatDidNotFinishIsCountedButNotTimed) {
  Metrics metrics("m");
  RequestEnd end;
  end.reason = core::FinishReason::kCancelled;
  metrics.OnRequestEnd(end);
  end.reason = core::FinishReason::kError;
  metrics.OnRequestEnd(end);
  const std::string text = metrics.Render({});
  ExpectLine(text, R"(vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 1)");
  ExpectLine(text, R"(vllm:request_success_total{engine="0",finished_reason="error",model_name="m"} 1)");
  ExpectLine(text, R"(vllm:e2e_request_latency_seconds_count{engine="0",model_name="m"} 0)");
}

TEST(Metrics, ExchangesByRouteAndStatus) {
  Metrics metrics("m");
  metrics.OnExchange("GET", "/livez", 200, kMillisecond);
  metrics.OnExchange("GET", "/livez", 200, kMillisecond);
  metrics.OnExchange("POST", "/v1/completions", 400, kMillisecond);
  const std::string text = metrics.Render({});
  ExpectLine(text, R"(http_requests_total{handler="/livez",method="GET",status="200"} 2)");
  ExpectLine(text, R"(http_requests_total{handler="/v1/completions",method="POST",status="400"} 1)");
  ExpectLine(text, R"(http_request_duration_seconds_count{handler="/livez",method="GET"} 2)");
}

TEST(Process, FiguresOfThisProcess) {
  const ProcessFigures figures = ReadProcessFigures();
  EXPECT_GT(figures.resident_bytes, 1 << 20);
  EXPECT_GE(figures.open_fds, 3);
  EXPECT_GE(figures.cpu_s, 0);
  const double now = static_cast<double>(time(nullptr));
  EXPECT_GT(figures.start_time_s, now - 3600);
  EXPECT_LT(figures.start_time_s, now + 2);
}

}  // namespace
}  // namespace shoal::metrics
