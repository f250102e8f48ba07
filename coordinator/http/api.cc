#include "coordinator/http/api.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/http/drain.h"
#include "coordinator/http/json_writer.h"
#include "coordinator/http/model_json.h"
#include "coordinator/http/percent.h"
#include "coordinator/http/tokenize.h"

namespace shoal::http {
namespace {

void RespondText(int status, std::string text, Responder* responder) {
  Response response;
  response.status = status;
  response.content_type = "text/plain; charset=utf-8";
  response.body = std::move(text);
  responder->Respond(std::move(response));
}

void RespondJson(std::string body, Responder* responder) {
  Response response;
  response.body = std::move(body);
  responder->Respond(std::move(response));
}

ApiError NoModel() { return MakeError(ErrorKind::kUnavailable, "the model is still loading; try again shortly"); }

bool Matches(std::string_view pattern, std::string_view path) {
  if (pattern.back() == '/') return path.size() > pattern.size() && path.starts_with(pattern);
  return path == pattern;
}

// What a browser asks before it sends anything.
void RespondPreflight(const Request& request, Responder* responder) {
  Response response;
  response.status = 204;
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  const std::string_view wanted = request.Header("access-control-request-headers");
  response.headers.emplace_back("Access-Control-Allow-Headers", wanted.empty() ? "*" : std::string(wanted));
  response.headers.emplace_back("Access-Control-Max-Age", "86400");
  responder->Respond(std::move(response));
}

// All that open what clients may have; none: nobody needs one.
std::vector<std::string> ClientKeys(const ApiOptions& options) {
  std::vector<std::string> keys = options.api_keys;
  if (!keys.empty()) keys.insert(keys.end(), options.admin_keys.begin(), options.admin_keys.end());
  return keys;
}

}  // namespace

const Api::Route Api::kRoutes[] = {
    {"POST", "/v1/chat/completions", Access::kClient, &Api::Chat},
    {"POST", "/v1/completions", Access::kClient, &Api::Completion},
    {"GET", "/v1/models", Access::kClient, &Api::Models},
    {"GET", "/v1/models/", Access::kClient, &Api::OneModel},
    {"GET", "/v1/cluster", Access::kClient, &Api::Cluster},
    {"POST", "/v1/cluster/drain", Access::kAdmin, &Api::DrainAgent},
    {"POST", "/tokenize", Access::kClient, &Api::Tokenize},
    {"POST", "/detokenize", Access::kClient, &Api::Detokenize},
    {"GET", "/livez", Access::kAnybody, &Api::Live},
    {"GET", "/readyz", Access::kAnybody, &Api::Ready},
    {"GET", "/health", Access::kAnybody, &Api::Ready},
    {"GET", "/metrics", Access::kAnybody, &Api::Metrics},
    {"GET", "/version", Access::kAnybody, &Api::Version},
};

Api::Api(ApiOptions options, Engine* engine, metrics::Metrics* metrics, std::unique_ptr<journal::Journal> journal)
    : options_(std::move(options)),
      client_keys_(ClientKeys(options_)),
      admin_keys_(options_.admin_keys),
      engine_(engine),
      metrics_(metrics),
      pool_(options_.text_threads, options_.limits.queued_text_jobs) {
  if (journal != nullptr)
    idempotency_ = std::make_unique<Idempotency>(std::move(journal), Context(), options_.after_crash);
}

GenerationContext Api::Context() { return {engine_, metrics_, &pool_, &options_.limits}; }

void Api::Drain() {
  draining_.store(true, std::memory_order_relaxed);
  if (idempotency_ != nullptr) idempotency_->Drain();
}

void Api::Resume(std::shared_ptr<Executor> executor) {
  if (idempotency_ != nullptr) idempotency_->Resume(std::move(executor));
}

void Api::TurnAwayWaiting() {
  if (idempotency_ != nullptr) idempotency_->TurnAwayWaiting();
}

size_t Api::kept_executions() { return idempotency_ != nullptr ? idempotency_->executions() : 0; }

void Api::Handle(Request request, std::shared_ptr<Responder> responder) {
  if (request.method == "OPTIONS") {
    responder->SetRoute("preflight");
    return RespondPreflight(request, responder.get());
  }
  std::string allowed;
  for (const Route& route : kRoutes) {
    if (!Matches(route.path, request.path)) continue;
    responder->SetRoute(route.path);
    const bool fits =
        request.method == route.method || (request.method == "HEAD" && std::string_view(route.method) == "GET");
    if (!fits) {
      absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", route.method);
      continue;
    }
    if (const auto denied = Denied(route.access, request.Header("authorization")); denied.has_value()) {
      return RespondError(*denied, responder.get());
    }
    return (this->*route.handler)(std::move(request), std::move(responder));
  }
  if (allowed.empty()) {
    return RespondError(MakeError(ErrorKind::kNotFound, "There is no such route on this server."), responder.get());
  }
  Response response;
  response.status = Info(ErrorKind::kMethodNotAllowed).status;
  response.headers.emplace_back("Allow", allowed + ", OPTIONS");
  response.body = ErrorBody(MakeError(ErrorKind::kMethodNotAllowed, "This route takes " + allowed + " only."));
  responder->Respond(std::move(response));
}

std::optional<ApiError> Api::Denied(Access access, std::string_view authorization) const {
  if (access == Access::kAnybody) return std::nullopt;
  const bool operators = !options_.admin_keys.empty(), clients = !options_.api_keys.empty();
  if (access == Access::kAdmin && operators && admin_keys_.Allows(authorization)) return std::nullopt;
  const bool known = client_keys_.Allows(authorization);
  if (known && (access == Access::kClient || (!operators && !clients))) return std::nullopt;
  if (!known || !clients) {
    return MakeError(ErrorKind::kInvalidApiKey,
                     "Incorrect or missing API key. Send it as 'Authorization: Bearer KEY'.");
  }
  return MakeError(ErrorKind::kForbidden, operators ? "This needs an admin API key: that of a client is not enough."
                                                    : "This needs an admin API key, and the server has none: start it "
                                                      "with --admin-api-key.");
}

void Api::Observe(const Exchange& exchange) {
  static constexpr std::string_view kMethods[] = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"};
  const bool known = std::find(std::begin(kMethods), std::end(kMethods), exchange.method) != std::end(kMethods);
  metrics_->OnExchange(known ? exchange.method : "other", exchange.route, exchange.status, exchange.duration);
}

void Api::Generate(bool chat, Request request, std::shared_ptr<Responder> responder) {
  if (draining_.load(std::memory_order_relaxed)) {
    return RespondError(MakeError(ErrorKind::kUnavailable, "the server is shutting down"), responder.get());
  }
  if (request.Count(kIdempotencyKey) == 0) {
    return Generation::Start(Context(), chat, std::move(request), std::move(responder));
  }
  ApiError error = MakeError(ErrorKind::kUnsupportedParameter,
                             "this server has no state directory, so it cannot keep what an Idempotency-Key promises",
                             "Idempotency-Key");
  if (idempotency_ == nullptr) return RespondError(error, responder.get());
  std::optional<std::string> key = FindIdempotencyKey(request, &error);
  if (!key.has_value()) return RespondError(error, responder.get());
  // Without API keys to tell clients apart, what a client sends as one says nothing.
  const std::string scope = options_.api_keys.empty() ? "" : std::string(request.Header("authorization"));
  idempotency_->Handle(chat, scope, std::move(*key), std::move(request), std::move(responder));
}

void Api::Chat(Request request, std::shared_ptr<Responder> responder) {
  Generate(true, std::move(request), std::move(responder));
}

void Api::Completion(Request request, std::shared_ptr<Responder> responder) {
  Generate(false, std::move(request), std::move(responder));
}

void Api::Models(Request /*request*/, std::shared_ptr<Responder> responder) {
  const auto model = engine_->Model();
  if (model == nullptr) return RespondError(NoModel(), responder.get());
  RespondJson(ModelListJson(*model), responder.get());
}

void Api::OneModel(Request request, std::shared_ptr<Responder> responder) {
  const auto model = engine_->Model();
  if (model == nullptr) return RespondError(NoModel(), responder.get());
  const std::string name = PercentDecode(std::string_view(request.path).substr(std::string_view("/v1/models/").size()));
  if (std::find(model->names.begin(), model->names.end(), name) == model->names.end()) {
    return RespondError(MakeError(ErrorKind::kModelNotFound, "The model '" + name + "' does not exist", "model"),
                        responder.get());
  }
  RespondJson(ModelJson(*model, name), responder.get());
}

plan::StaleCounts Api::Stale(const core::ClusterState& state) const {
  plan::StaleCounts counts = options_.stale != nullptr ? options_.stale() : plan::StaleCounts{};
  for (size_t place = 0; place < plan::kStalePlaces; ++place) counts[place] += state.stale[place];
  return counts;
}

void Api::Cluster(Request /*request*/, std::shared_ptr<Responder> responder) {
  const core::ClusterState state = engine_->Cluster();
  RespondJson(ClusterJson(state, Stale(state)), responder.get());
}

void Api::DrainAgent(Request request, std::shared_ptr<Responder> responder) {
  plan::AgentId agent;
  Response response = DrainAnswer(request.body, options_.limits, engine_->Cluster(), &agent);
  if (!agent.empty()) engine_->DrainAgent(agent);
  responder->Respond(std::move(response));
}

// Text work off the I/O thread; nothing to cancel when the client goes.
void Api::OnPool(std::shared_ptr<Responder> responder, std::function<Response()> work) {
  // The exchange owns the responder until it is complete; the job must not keep it.
  auto job = [weak = std::weak_ptr<Responder>(responder), executor = responder->executor(), work = std::move(work)] {
    auto response = std::make_shared<Response>(work());
    executor->Post([weak, response] {
      if (const auto alive = weak.lock()) alive->Respond(std::move(*response));
    });
  };
  if (!pool_.Submit(std::move(job))) {
    RespondError(MakeError(ErrorKind::kOverloaded, "too many requests wait for tokenisation; try again shortly"),
                 responder.get());
  }
}

void Api::Tokenize(Request request, std::shared_ptr<Responder> responder) {
  const auto model = engine_->Model();
  if (model == nullptr) return RespondError(NoModel(), responder.get());
  OnPool(std::move(responder),
         [model, body = std::move(request.body), this] { return TokenizeAnswer(body, options_.limits, *model); });
}

void Api::Detokenize(Request request, std::shared_ptr<Responder> responder) {
  const auto model = engine_->Model();
  if (model == nullptr) return RespondError(NoModel(), responder.get());
  OnPool(std::move(responder),
         [model, body = std::move(request.body), this] { return DetokenizeAnswer(body, options_.limits, *model); });
}

void Api::Live(Request /*request*/, std::shared_ptr<Responder> responder) { RespondText(200, "ok\n", responder.get()); }

void Api::Ready(Request /*request*/, std::shared_ptr<Responder> responder) {
  const bool ready = engine_->Ready() && !draining_.load(std::memory_order_relaxed);
  RespondText(ready ? 200 : 503, ready ? "ready\n" : "notready\n", responder.get());
}

void Api::Metrics(Request /*request*/, std::shared_ptr<Responder> responder) {
  Response response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  const core::ClusterState state = engine_->Cluster();
  metrics::Beside beside;
  beside.stale = Stale(state);
  if (idempotency_ != nullptr) {
    const journal::JournalFigures f = idempotency_->figures();
    beside.journal = {f.entries, f.bytes, f.accepted, f.again, f.full};
  }
  response.body = metrics_->Render(state, beside);
  responder->Respond(std::move(response));
}

void Api::Version(Request /*request*/, std::shared_ptr<Responder> responder) {
  std::string body = R"({"version":)";
  AppendJsonString(options_.version, &body);
  RespondJson(body + "}", responder.get());
}

}  // namespace shoal::http
