// The routes. One object serves all connections; Handle is the server's handler and runs on I/O threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http/auth.h"
#include "coordinator/http/engine.h"
#include "coordinator/http/generation.h"
#include "coordinator/http/idempotency.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"
#include "coordinator/http/text_pool.h"
#include "coordinator/metrics/metrics.h"

namespace shoal::http {

struct ApiOptions {
  std::vector<std::string> api_keys;  // empty: no key is asked for
  // What changes the cluster asks for one of these; they open all else too. Where only `api_keys` are given, nobody may
  // change it: clients are no operators.
  std::vector<std::string> admin_keys;
  std::function<plan::StaleCounts()> stale;  // refused outside of the core; null: nothing is
  Limits limits;
  int text_threads = 1;
  std::string version;
  bool after_crash = false;  // of the process that the journal is from, see Idempotency
};

class Api {
 public:
  // `engine` and `metrics` outlive this; the engine may still call back while it is destroyed.
  // `journal`: of requests with an Idempotency-Key; null: they are refused.
  Api(ApiOptions options, Engine* engine, metrics::Metrics* metrics,
      std::unique_ptr<journal::Journal> journal = nullptr);

  void Handle(Request request, std::shared_ptr<Responder> responder);
  void Observe(const Exchange& exchange);

  // From now on new generations are refused with 503. Thread-safe.
  void Drain();

  // The journal's open requests, see Idempotency.
  void Resume(std::shared_ptr<Executor> executor);
  void TurnAwayWaiting();
  // Requests with an Idempotency-Key that are being executed, with or without their clients. Thread-safe.
  size_t kept_executions();

 private:
  using Method = void (Api::*)(Request, std::shared_ptr<Responder>);
  enum class Access { kAnybody, kClient, kAdmin };
  struct Route {
    const char* method;  // GET also answers HEAD
    const char* path;    // ending in '/': a prefix
    Access access;
    Method handler;
  };
  static const Route kRoutes[];
  // Why this request may not have that; nothing when it may.
  std::optional<ApiError> Denied(Access access, std::string_view authorization) const;
  // Of agents, ranks and this process, see plan/stale.h.
  plan::StaleCounts Stale(const core::ClusterState& state) const;

  void Chat(Request request, std::shared_ptr<Responder> responder);
  void Completion(Request request, std::shared_ptr<Responder> responder);
  void Models(Request request, std::shared_ptr<Responder> responder);
  void OneModel(Request request, std::shared_ptr<Responder> responder);
  void Cluster(Request request, std::shared_ptr<Responder> responder);
  void DrainAgent(Request request, std::shared_ptr<Responder> responder);
  void Tokenize(Request request, std::shared_ptr<Responder> responder);
  void Detokenize(Request request, std::shared_ptr<Responder> responder);
  void Live(Request request, std::shared_ptr<Responder> responder);
  void Ready(Request request, std::shared_ptr<Responder> responder);
  void Metrics(Request request, std::shared_ptr<Responder> responder);
  void Version(Request request, std::shared_ptr<Responder> responder);

  GenerationContext Context();
  void Generate(bool chat, Request request, std::shared_ptr<Responder> responder);
  void OnPool(std::shared_ptr<Responder> responder, std::function<Response()> work);

  const ApiOptions options_;
  const ApiKeys client_keys_, admin_keys_;
  Engine* const engine_;
  metrics::Metrics* const metrics_;
  std::atomic<bool> draining_{false};
  std::unique_ptr<Idempotency> idempotency_;  // null without a journal
  TextPool pool_;                             // last: its threads end before what they use
};

}  // namespace shoal::http
