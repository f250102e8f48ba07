#include "coordinator/server/server.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/base/build_id.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "coordinator/http/api.h"
#include "coordinator/http/http_server.h"
#include "coordinator/journal/journal.h"
#include "coordinator/rpc/agents.h"
#include "coordinator/server/canary_file.h"
#include "coordinator/server/core_thread.h"
#include "coordinator/server/report_writer.h"

namespace shoal::server {
namespace {

using Phase = core::ClusterState::Phase;

// How often the main thread looks at the stop flag and at the state.
constexpr auto kTick = std::chrono::milliseconds(50);
constexpr int kTicksPerState = 4;
// How long those who ask again for an answer that a former coordinator began wait for ranks to make it; as long as
// requests wait for a lost group.
constexpr DurationNs kResumePatience = 30 * kSecond;
// After the last token, for answers to leave.
constexpr DurationNs kFlushTimeout = kSecond;

uint64_t RandomWord() {
  uint64_t word = 0;
  SHOAL_CHECK(getrandom(&word, sizeof word, 0) == static_cast<ssize_t>(sizeof word));
  return word;
}

// As many open connections as the system allows: the usual soft limit of 1024 exists for select(), which is not used
// here.
void RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // when refused, the old limit holds and accepting waits for free descriptors
}

// What is known of the served model before a group is up.
absl::StatusOr<http::ServedModel> DescribeModel(const CoordinatorOptions& options, const model::ModelFiles& files) {
  http::ServedModel served;
  served.names = options.served_names;
  if (served.names.empty()) served.names.push_back(files.name);
  served.created = time(nullptr);
  served.root = options.model;
  served.vocab = files.config.vocab;
  served.eos_tokens = files.config.eos_tokens;
  served.max_num_seqs = std::min(options.core.max_num_seqs, options.core.max_num_batched_tokens);
  served.add_bos = files.add_bos;
  SHOAL_ASSIGN_OR_RETURN(served.tokenizer, model::OpenTokenizer(files));
  if (!files.chat_template.empty()) {
    SHOAL_ASSIGN_OR_RETURN(served.chat_template,
                           text::ChatTemplate::Create(files.chat_template, files.bos_spelling, files.eos_spelling,
                                                      served.tokenizer->control_spellings()));
  }
  return served;
}

// Null without a directory.
absl::StatusOr<std::unique_ptr<journal::Journal>> OpenJournal(const CoordinatorOptions& options) {
  if (options.state_dir.empty()) return nullptr;
  journal::StoreOptions store;
  store.directory = options.state_dir;
  store.ttl_s = options.idempotency_ttl / kSecond;
  store.now_s = [] { return static_cast<int64_t>(time(nullptr)); };
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<journal::Journal> journal, journal::Journal::Open(std::move(store)));
  if (journal->cut_bytes() > 0) spdlog::warn("journal: the last {} bytes were not whole", journal->cut_bytes());
  if (const size_t left = journal->unfinished().size(); left > 0) {
    spdlog::info("journal: {} requests of a former coordinator will be answered", left);
  }
  return journal;
}

// Everything that runs, torn down from the last to the first.
class Coordinator {
 public:
  Coordinator(CoordinatorOptions options, const Progress& progress)
      : options_(std::move(options)), progress_(progress) {}
  ~Coordinator() { TearDown(absl::UnavailableError("the server is shutting down")); }

  absl::Status Start();
  absl::Status Serve(const std::atomic<bool>& stop);
  // Until all that was accepted has ended, or the time for it is over. How many requests had to be cut then.
  int Drain();

 private:
  absl::Status ListenHttp();
  int TearDown(const absl::Status& reason);
  std::string Url() const;

  CoordinatorOptions options_;
  const Progress& progress_;
  const std::shared_ptr<rpc::StaleTally> stale_ = std::make_shared<rpc::StaleTally>();
  std::unique_ptr<metrics::Metrics> metrics_;
  std::unique_ptr<ReportWriter> reports_;
  std::unique_ptr<CanaryFile> canaries_;
  std::unique_ptr<CoreThread> core_;
  std::unique_ptr<http::Api> api_;
  std::unique_ptr<http::HttpServer> http_;
  std::unique_ptr<rpc::Agents> agents_;
};

absl::Status Coordinator::Start() {
  RaiseFileLimit();
  SHOAL_ASSIGN_OR_RETURN(
      const model::ModelFiles files,
      model::OpenModel(options_.model, options_.core.engine.load_format == "dummy" ? model::WeightSource::kDummy
                                                                                   : model::WeightSource::kFiles));
  SHOAL_ASSIGN_OR_RETURN(const http::ServedModel served, DescribeModel(options_, files));
  core::CoreOptions& core = options_.core;
  core.model_path = files.path;
  core.revision = files.revision;
  core.model = files.config;
  core.incarnation = RandomWord();
  core.adopts = options_.adopts;
  if (core.build_id.empty()) core.build_id = BuildId();
  canaries_ = std::make_unique<CanaryFile>(options_.state_dir);
  core.known_canaries = canaries_->Known();

  metrics_ = std::make_unique<metrics::Metrics>(served.names.front());
  reports_ = std::make_unique<ReportWriter>(options_.report_dir);
  core_ = std::make_unique<CoreThread>(core, [served](const core::ClusterState& state) {
    auto model = std::make_shared<http::ServedModel>(served);
    model->max_model_len = state.max_model_len;
    model->system_fingerprint = state.numerics_id;
    return model;
  });
  SHOAL_RETURN_IF_ERROR(ListenHttp());

  rpc::AgentsOptions agents;
  agents.listen = options_.control;
  agents.incarnation = core.incarnation;
  agents.build_id = core.build_id;
  agents.insecure = options_.insecure;
  agents.stale = stale_;
  SHOAL_ASSIGN_OR_RETURN(agents_,
                         rpc::Agents::Start(agents, [this](core::Event event) { core_->Post(std::move(event)); }));
  core_->Start([this](const core::Effect& effect) {
    std::visit(
        [this](const auto& e) {
          if constexpr (requires { agents_->Carry(e); }) agents_->Carry(e);
          if constexpr (std::is_same_v<decltype(e), const core::Report&>) reports_->Post(e.what);
          if constexpr (std::is_same_v<decltype(e), const core::CanaryLearned&>) canaries_->Learn(e.known);
        },
        effect);
  });
  return absl::OkStatus();
}

absl::Status Coordinator::ListenHttp() {
  http::ApiOptions api;
  api.api_keys = options_.api_keys;
  api.admin_keys = options_.admin_keys;
  api.stale = [stale = stale_] { return stale->Total(); };
  api.version = std::string(kVersion);
  api.after_crash = options_.after_crash;
  api.text_threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 4);
  http::HttpServerOptions http;
  http.host = options_.host;
  http.port = options_.port;
  http.threads = std::max(1, options_.http_threads);
  http.limits = api.limits;
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<journal::Journal> journal, OpenJournal(options_));
  api_ = std::make_unique<http::Api>(std::move(api), core_.get(), metrics_.get(), std::move(journal));
  SHOAL_ASSIGN_OR_RETURN(http_, http::HttpServer::Start(
                                    http,
                                    [api = api_.get()](http::Request request, std::shared_ptr<http::Responder> to) {
                                      api->Handle(std::move(request), std::move(to));
                                    },
                                    [api = api_.get()](const http::Exchange& exchange) { api->Observe(exchange); }));
  return absl::OkStatus();
}

std::string Coordinator::Url() const {
  const bool everywhere = options_.host == "0.0.0.0" || options_.host == "::" || options_.host.empty();
  return absl::StrCat("http://", everywhere ? "127.0.0.1" : options_.host, ":", http_->port());
}

absl::Status Coordinator::Serve(const std::atomic<bool>& stop) {
  if (progress_.on_control_ready != nullptr) progress_.on_control_ready(agents_->address(), http_->port());
  const RealClock clock;
  const TimeNs patience_ends = clock.Now() + kResumePatience;
  bool announced = false;
  for (int tick = 0; !stop.load(std::memory_order_relaxed); ++tick) {
    if (tick % kTicksPerState == 0 || !announced) {
      const core::ClusterState state = core_->Cluster();
      if (state.phase == Phase::kFailed) return absl::InternalError(state.detail);
      if (!announced && tick % kTicksPerState == 0 && progress_.on_state != nullptr) progress_.on_state(state);
    }
    if (!announced && core_->Ready()) {
      announced = true;
      api_->Resume(http_->executor());
      if (progress_.on_ready != nullptr) progress_.on_ready(Url());
    }
    if (!announced && clock.Now() > patience_ends) api_->TurnAwayWaiting();
    canaries_->Flush();
    std::this_thread::sleep_for(kTick);
  }
  return absl::OkStatus();
}

// Not ready from now on; what was accepted may finish, what is new is refused.
int Coordinator::Drain() {
  api_->Drain();
  http_->Drain();
  core_->Post(core::ShutdownRequested{});
  const RealClock clock;
  const TimeNs end = clock.Now() + options_.shutdown_timeout;
  // Also for what is executed for a client that has gone, or that a former coordinator had: it was accepted.
  const auto busy = [this] { return http_->open_exchanges() > 0 || api_->kept_executions() > 0; };
  bool late = false;
  while (busy() && !(late = clock.Now() >= end)) std::this_thread::sleep_for(kTick / 5);
  const int cut = TearDown(absl::UnavailableError("the server is shutting down"));
  return late ? cut : 0;
}

int Coordinator::TearDown(const absl::Status& reason) {
  if (api_ != nullptr) api_->Drain();  // what ends from here on ends for this process only
  int cut = core_ != nullptr ? core_->Stop(reason) : 0;
  const RealClock clock;
  const TimeNs end = clock.Now() + kFlushTimeout;
  while (http_ != nullptr && http_->open_exchanges() > 0 && clock.Now() < end) std::this_thread::sleep_for(kTick / 5);
  if (http_ != nullptr) cut = std::max(cut, http_->open_exchanges());  // who reads too slowly
  http_.reset();
  api_.reset();
  agents_.reset();
  core_.reset();
  if (canaries_ != nullptr) canaries_->Flush();
  return cut;
}

}  // namespace

absl::Status RunCoordinator(CoordinatorOptions options, const Progress& progress, const std::atomic<bool>& stop) {
  const DurationNs shutdown_timeout = options.shutdown_timeout;
  Coordinator coordinator(std::move(options), progress);
  SHOAL_RETURN_IF_ERROR(coordinator.Start());
  SHOAL_RETURN_IF_ERROR(coordinator.Serve(stop));
  const int cut = coordinator.Drain();
  if (cut == 0) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("shut down with ", cut, cut == 1 ? " request" : " requests",
                                                  " cut off: longer than the shutdown time-out of ",
                                                  shutdown_timeout / kMillisecond, " ms"));
}

}  // namespace shoal::server
