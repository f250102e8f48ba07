#include "coordinator/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <vector>

#include "common/base/mutex.h"
#include "coordinator/metrics/process.h"

namespace shoal::metrics {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Labels = prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;

// vLLM's bucket borders, so that its dashboards' quantiles compare.
const Buckets& FirstTokenBuckets() {
  static const Buckets buckets{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                               1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
  return buckets;
}
const Buckets& TokenBuckets() {
  static const Buckets buckets{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                               0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
  return buckets;
}
const Buckets& RequestBuckets() {
  static const Buckets buckets{0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                               30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}
// 1, 2, 5, 10, ... as far as a context goes.
const Buckets& CountBuckets() {
  static const Buckets buckets{1,    2,    5,    10,    20,    50,    100,    200,   500,
                               1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  return buckets;
}

double Seconds(DurationNs ns) { return static_cast<double>(ns) * 1e-9; }

std::string_view ReasonName(core::FinishReason reason) {
  switch (reason) {
    case core::FinishReason::kStop:
      return "stop";
    case core::FinishReason::kLength:
      return "length";
    case core::FinishReason::kCancelled:
      return "abort";
    case core::FinishReason::kError:
      return "error";
  }
  return "error";
}

}  // namespace

class Metrics::Impl {
 public:
  explicit Impl(const std::string& model_name) : labels_{{"model_name", model_name}, {"engine", "0"}} {
    for (const core::FinishReason reason : {core::FinishReason::kStop, core::FinishReason::kLength,
                                            core::FinishReason::kCancelled, core::FinishReason::kError}) {
      Labels labels = labels_;
      labels["finished_reason"] = std::string(ReasonName(reason));
      success_.push_back(&success_family_.Add(labels));
    }
  }

  Histogram& MakeHistogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels_, buckets);
  }
  Counter& MakeCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels_);
  }
  Family<Gauge>& MakeGauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
  }
  Gauge& MakeGauge(const char* name, const char* help) { return MakeGauges(name, help).Add(labels_); }

  void SetState(const core::ClusterState& state) SHOAL_REQUIRES(mutex_);
  void SetBeside(const Beside& beside) SHOAL_REQUIRES(mutex_);
  void SetRanks(const core::ClusterState& state) SHOAL_REQUIRES(mutex_);
  void SetMember(Family<Gauge>& family, const Labels& labels, double value) SHOAL_REQUIRES(mutex_);
  void SetProcess() SHOAL_REQUIRES(mutex_);

  prometheus::Registry registry_;
  const Labels labels_;

  Gauge& running_ = MakeGauge("vllm:num_requests_running", "Requests in a running batch.");
  Gauge& waiting_ = MakeGauge("vllm:num_requests_waiting", "Requests waiting to be scheduled.");
  Gauge& kv_usage_ = MakeGauge("vllm:kv_cache_usage_perc", "Share of KV cache blocks in use, 1 is all of them.");
  Family<Gauge>& cache_info_ = MakeGauges("vllm:cache_config_info", "Block size and count of the KV cache, in labels.");

  Counter& prompt_tokens_ = MakeCounter("vllm:prompt_tokens_total", "Prompt tokens processed.");
  Counter& generation_tokens_ = MakeCounter("vllm:generation_tokens_total", "Tokens generated.");
  Counter& preemptions_ = MakeCounter("vllm:num_preemptions_total", "Preemptions of sequences.");
  Counter& resumed_ = MakeCounter("shoal:sequences_resumed_total",
                                  "Sequences that went on with the KV they had before their group was lost.");
  Counter& recomputed_ =
      MakeCounter("shoal:recomputed_tokens_total", "Tokens whose KV was computed again: after preemptions and losses.");
  Counter& poisoned_ =
      MakeCounter("shoal:poisoned_requests_total", "Requests that made ranks fail, and are not tried again.");
  Counter& canary_failures_ =
      MakeCounter("shoal:canary_failures_total", "Canaries whose answer was not the known one.");
  Family<Counter>& mismatches_ = prometheus::BuildCounter()
                                     .Name("shoal:hidden_state_mismatches_total")
                                     .Help("How often a rank held other hidden states than its tensor peers.")
                                     .Register(registry_);
  Counter& reforms_ =
      MakeCounter("shoal:reforms_total", "Times that the group came back with another layout than before.");
  Family<Counter>& stale_ = prometheus::BuildCounter()
                                .Name("shoal:stale_total")
                                .Help(
                                    "What belonged to an epoch that was over, or to a stranger, and was refused, by "
                                    "the place that did.")
                                .Register(registry_);
  Gauge& journal_entries_ =
      MakeGauge("shoal:journal_entries", "Requests with an Idempotency-Key in the journal, answered or not.");
  Gauge& journal_bytes_ = MakeGauge("shoal:journal_bytes", "Size of the journal's file.");
  Counter& journal_accepted_ =
      MakeCounter("shoal:journal_accepted_total", "Requests with a new Idempotency-Key that were recorded.");
  Counter& journal_again_ = MakeCounter("shoal:journal_answered_again_total",
                                        "Requests whose Idempotency-Key was known: they got the answer of the first.");
  Counter& journal_full_ =
      MakeCounter("shoal:journal_full_total", "Requests refused because the journal was full of those that still ran.");
  Family<Counter>& success_family_ = prometheus::BuildCounter()
                                         .Name("vllm:request_success_total")
                                         .Help("Requests that ended, by how.")
                                         .Register(registry_);
  std::vector<Counter*> success_;  // by FinishReason

  Histogram& first_token_ =
      MakeHistogram("vllm:time_to_first_token_seconds", "From the first byte of the request to its first token.",
                    FirstTokenBuckets());
  Histogram& inter_token_ = MakeHistogram("vllm:inter_token_latency_seconds",
                                          "Between two deliveries of tokens of one request.", TokenBuckets());
  Histogram& per_token_ = MakeHistogram("vllm:request_time_per_output_token_seconds",
                                        "Decode time of a request by its tokens after the first.", TokenBuckets());
  Histogram& e2e_ = MakeHistogram("vllm:e2e_request_latency_seconds", "From arrival to the end.", RequestBuckets());
  Histogram& queue_ =
      MakeHistogram("vllm:request_queue_time_seconds", "From arrival to being scheduled.", RequestBuckets());
  Histogram& prefill_ =
      MakeHistogram("vllm:request_prefill_time_seconds", "From being scheduled to the first token.", RequestBuckets());
  Histogram& decode_ =
      MakeHistogram("vllm:request_decode_time_seconds", "From the first token to the end.", RequestBuckets());
  Histogram& inference_ =
      MakeHistogram("vllm:request_inference_time_seconds", "From being scheduled to the end.", RequestBuckets());
  Histogram& prompt_size_ = MakeHistogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", CountBuckets());
  Histogram& output_size_ =
      MakeHistogram("vllm:request_generation_tokens", "Tokens generated for a request.", CountBuckets());
  Histogram& max_tokens_ = MakeHistogram("vllm:request_params_max_tokens", "max_tokens of a request.", CountBuckets());
  Histogram& max_output_ =
      MakeHistogram("vllm:request_max_num_generation_tokens",
                    "Largest number of tokens generated for a choice of a request.", CountBuckets());
  Histogram& choices_ = MakeHistogram("vllm:request_params_n", "Choices asked for by a request.", CountBuckets());

  Family<Counter>& http_requests_ =
      prometheus::BuildCounter().Name("http_requests_total").Help("HTTP exchanges.").Register(registry_);
  Family<Histogram>& http_seconds_ = prometheus::BuildHistogram()
                                         .Name("http_request_duration_seconds")
                                         .Help("From the first byte of a request to the last of its answer.")
                                         .Register(registry_);

  Family<Gauge>& rank_up_ = MakeGauges("shoal:rank_up", "1 for a rank that can execute plans.");
  Family<Gauge>& rank_memory_ = MakeGauges("shoal:rank_resident_bytes", "Resident memory of a rank's process.");
  Family<Gauge>& rank_step_ =
      MakeGauges("shoal:rank_step_seconds", "Lately for a step, without waiting for other ranks.");
  Family<Gauge>& rank_straggler_ =
      MakeGauges("shoal:rank_straggler", "1 for a rank that takes over 3 times as long as its tensor peers.");
  Family<Gauge>& rank_comm_ =
      MakeGauges("shoal:rank_comm_bytes", "Bytes that a rank has sent to others since it started, by transport.");
  Family<Gauge>& heartbeat_ = MakeGauges("shoal:agent_heartbeat_age_seconds", "Since the last heartbeat of an agent.");
  Gauge& epoch_ = MakeGauge("shoal:group_epoch", "Raised whenever the group is formed anew.");
  Gauge& load_total_ = MakeGauge("shoal:load_bytes_total_expected", "Bytes of weights to load.");
  Gauge& load_done_ = MakeGauge("shoal:load_bytes_done", "Bytes of weights loaded so far.");
  Gauge& resident_ = MakeGauges("process_resident_memory_bytes", "Resident memory of the coordinator.").Add({});
  Gauge& open_fds_ = MakeGauges("process_open_fds", "Open file descriptors.").Add({});
  Gauge& start_time_ = MakeGauges("process_start_time_seconds", "Start of the process since 1970.").Add({});
  Counter& cpu_seconds_ = prometheus::BuildCounter()
                              .Name("process_cpu_seconds_total")
                              .Help("User and system CPU time.")
                              .Register(registry_)
                              .Add({});

  Mutex mutex_;                                                                         // one scrape at a time
  std::vector<std::pair<Family<Gauge>*, Gauge*>> per_member_ SHOAL_GUARDED_BY(mutex_);  // made anew at each scrape
  double cpu_before_ SHOAL_GUARDED_BY(mutex_) = 0;
  Gauge* cache_gauge_ SHOAL_GUARDED_BY(mutex_) = nullptr;
  int32_t cache_blocks_ SHOAL_GUARDED_BY(mutex_) = -1;
};

// The core counts; a scrape that sees an older state than the one before changes nothing.
void CountTo(double total, Counter* counter) {
  if (total > counter->Value()) counter->Increment(total - counter->Value());
}

void Metrics::Impl::SetState(const core::ClusterState& state) {
  running_.Set(state.running);
  waiting_.Set(state.waiting);
  const int32_t used = state.kv_blocks - state.kv_blocks_free;
  kv_usage_.Set(state.kv_blocks > 0 ? static_cast<double>(used) / state.kv_blocks : 0);
  CountTo(static_cast<double>(state.preemptions), &preemptions_);
  CountTo(static_cast<double>(state.resumed), &resumed_);
  CountTo(static_cast<double>(state.recomputed_tokens), &recomputed_);
  CountTo(static_cast<double>(state.poisoned), &poisoned_);
  CountTo(static_cast<double>(state.canary_failures), &canary_failures_);
  for (const auto& [rank, count] : state.mismatches) {
    CountTo(static_cast<double>(count), &mismatches_.Add({{"rank", std::to_string(rank)}}));
  }
  CountTo(static_cast<double>(state.reforms), &reforms_);
  CountTo(static_cast<double>(state.prompt_tokens), &prompt_tokens_);
  epoch_.Set(static_cast<double>(state.epoch));
  load_total_.Set(static_cast<double>(state.load_bytes_total));
  load_done_.Set(static_cast<double>(state.load_bytes_done));
  if (state.kv_blocks != cache_blocks_) {
    if (cache_gauge_ != nullptr) cache_info_.Remove(cache_gauge_);
    Labels labels = labels_;
    labels["block_size"] = std::to_string(state.block_size);
    labels["num_gpu_blocks"] = std::to_string(state.kv_blocks);
    cache_gauge_ = &cache_info_.Add(labels);
    cache_gauge_->Set(1);
    cache_blocks_ = state.kv_blocks;
  }
}

void Metrics::Impl::SetBeside(const Beside& beside) {
  for (size_t place = 0; place < plan::kStalePlaces; ++place) {
    const std::string name(plan::StalePlaceName(static_cast<plan::StalePlace>(place)));
    CountTo(static_cast<double>(beside.stale[place]), &stale_.Add({{"where", name}}));
  }
  journal_entries_.Set(static_cast<double>(beside.journal.entries));
  journal_bytes_.Set(static_cast<double>(beside.journal.bytes));
  CountTo(static_cast<double>(beside.journal.accepted), &journal_accepted_);
  CountTo(static_cast<double>(beside.journal.again), &journal_again_);
  CountTo(static_cast<double>(beside.journal.full), &journal_full_);
}

void Metrics::Impl::SetMember(Family<Gauge>& family, const Labels& labels, double value) {
  Gauge& gauge = family.Add(labels);
  gauge.Set(value);
  per_member_.emplace_back(&family, &gauge);
}

void Metrics::Impl::SetRanks(const core::ClusterState& state) {
  for (const auto& [family, gauge] : per_member_) family->Remove(gauge);
  per_member_.clear();
  for (const auto& rank : state.ranks) {
    const Labels labels{{"rank", std::to_string(rank.rank)},
                        {"tp", std::to_string(rank.tp_index)},
                        {"pp", std::to_string(rank.stage)},
                        {"node", rank.hostname}};
    const bool up = rank.status.state == plan::RankState::kReady || rank.status.state == plan::RankState::kRunning;
    SetMember(rank_up_, labels, up ? 1 : 0);
    SetMember(rank_memory_, labels, static_cast<double>(rank.status.resident_bytes));
    SetMember(rank_step_, labels, Seconds(rank.own_time));
    SetMember(rank_straggler_, labels, rank.straggles ? 1 : 0);
    for (const auto& [transport, bytes] : rank.status.comm_bytes) {
      Labels with_transport = labels;
      with_transport["transport"] = transport;
      SetMember(rank_comm_, with_transport, static_cast<double>(bytes));
    }
  }
  for (size_t i = 0; i < state.agents.size(); ++i) {
    const Labels labels{{"agent", std::to_string(i)}, {"node", state.agents[i].info.hostname}};
    SetMember(heartbeat_, labels, Seconds(state.agents[i].heartbeat_age));
  }
}

void Metrics::Impl::SetProcess() {
  const ProcessFigures figures = ReadProcessFigures();
  resident_.Set(figures.resident_bytes);
  open_fds_.Set(figures.open_fds);
  start_time_.Set(figures.start_time_s);
  if (figures.cpu_s > cpu_before_) {
    cpu_seconds_.Increment(figures.cpu_s - cpu_before_);
    cpu_before_ = figures.cpu_s;
  }
}

Metrics::Metrics(const std::string& model_name) : impl_(std::make_unique<Impl>(model_name)) {}
Metrics::~Metrics() = default;

void Metrics::OnFirstToken(DurationNs since_arrival) { impl_->first_token_.Observe(Seconds(since_arrival)); }

void Metrics::OnTokens(int32_t tokens, DurationNs gap) {
  impl_->generation_tokens_.Increment(tokens);
  if (gap > 0) impl_->inter_token_.Observe(Seconds(gap));
}

void Metrics::OnRequestEnd(const RequestEnd& end) {
  impl_->success_[static_cast<size_t>(end.reason)]->Increment();
  if (end.reason == core::FinishReason::kError || end.reason == core::FinishReason::kCancelled) return;
  const core::RequestStats& stats = end.stats;
  Impl& m = *impl_;
  if (stats.output_tokens == 0 && stats.first_token != 0)
    m.first_token_.Observe(Seconds(stats.first_token - stats.arrived));
  m.e2e_.Observe(Seconds(stats.finished - stats.arrived));
  m.queue_.Observe(Seconds(stats.first_scheduled - stats.arrived));
  m.prefill_.Observe(Seconds(stats.first_token - stats.first_scheduled));
  m.decode_.Observe(Seconds(stats.finished - stats.first_token));
  m.inference_.Observe(Seconds(stats.finished - stats.first_scheduled));
  if (stats.output_tokens > 1) {
    m.per_token_.Observe(Seconds(stats.finished - stats.first_token) / (stats.output_tokens - 1));
  }
  m.prompt_size_.Observe(stats.prompt_tokens);
  m.output_size_.Observe(stats.output_tokens);
  m.max_output_.Observe(stats.output_tokens);
  m.max_tokens_.Observe(end.max_tokens);
  m.choices_.Observe(1);
}

void Metrics::OnExchange(std::string_view method, std::string_view route, int status, DurationNs duration) {
  const Labels by_route{{"handler", std::string(route)}, {"method", std::string(method)}};
  Labels by_status = by_route;
  by_status["status"] = std::to_string(status);
  impl_->http_requests_.Add(by_status).Increment();
  impl_->http_seconds_.Add(by_route, FirstTokenBuckets()).Observe(Seconds(duration));
}

std::string Metrics::Render(const core::ClusterState& state, const Beside& beside) {
  MutexLock lock(impl_->mutex_);
  impl_->SetState(state);
  impl_->SetBeside(beside);
  impl_->SetRanks(state);
  impl_->SetProcess();
  return prometheus::TextSerializer().Serialize(impl_->registry_.Collect());
}

}  // namespace shoal::metrics
