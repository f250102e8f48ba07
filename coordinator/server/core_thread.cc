#include "coordinator/server/core_thread.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

namespace shoal::server {
namespace {

constexpr DurationNs kPublishInterval = 50 * kMillisecond;  // what scrapes and status may lag behind
constexpr DurationNs kStaleAfter = 5 * kSecond;             // heartbeats alone renew the state more often
constexpr DurationNs kNoProgress = 10 * kSecond;            // work, and nobody gets on with it: not ready
constexpr DurationNs kLongWait = 60 * kSecond;

void Log(const core::LogLine& line) {
  switch (line.level) {
    case core::LogLine::Level::kInfo:
      spdlog::info("{}", line.text);
      break;
    case core::LogLine::Level::kWarning:
      spdlog::warn("{}", line.text);
      break;
    case core::LogLine::Level::kError:
      spdlog::error("{}", line.text);
      break;
  }
}

http::ChoiceUpdate& ChoiceOf(int32_t choice, http::GenerateUpdate* update) {
  for (http::ChoiceUpdate& known : update->choices) {
    if (known.choice == choice) return known;
  }
  http::ChoiceUpdate& fresh = update->choices.emplace_back();
  fresh.choice = choice;
  return fresh;
}

}  // namespace

CoreThread::CoreThread(core::CoreOptions options, ModelFn make_model)
    : make_model_(std::move(make_model)), core_(std::move(options)) {
  shown_.state = core_.State(clock_.Now());
}

CoreThread::~CoreThread() { Stop(absl::UnavailableError("the server has ended")); }

void CoreThread::Start(CarryFn carry) {
  carry_ = std::move(carry);
  thread_ = std::thread([this] { Run(); });
}

int CoreThread::Stop(const absl::Status& reason) {
  {
    MutexLock lock(queue_mutex_);
    stop_ = true;
  }
  queue_changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
  // Requests that came after the thread's last look are in the queue only.
  std::vector<Item> rest;
  {
    MutexLock lock(queue_mutex_);
    rest.swap(queue_);
  }
  int cut = 0;
  for (const Item& item : rest) {
    const auto* gone = std::get_if<core::RequestCancelled>(&item.event);
    const auto sink = gone != nullptr ? sinks_.find(gone->id) : sinks_.end();
    if (sink != sinks_.end()) {
      End(sink->second, reason);
      sinks_.erase(sink);
    }
    if (item.on_update != nullptr) End(item.on_update, reason);
  }
  for (const auto& [id, sink] : sinks_) {
    End(sink, reason);
    ++cut;
  }
  sinks_.clear();
  return cut;
}

void CoreThread::End(const UpdateFn& sink, const absl::Status& reason) {
  http::GenerateUpdate update;
  update.finished = true;
  update.reason = core::FinishReason::kError;
  update.error = reason;
  sink(std::move(update));
}

void CoreThread::Push(Item item) {
  {
    MutexLock lock(queue_mutex_);
    if (!stop_) {
      queue_.push_back(std::move(item));
      queue_changed_.NotifyOne();
      return;
    }
  }
  if (item.on_update != nullptr) End(item.on_update, absl::UnavailableError("the server is shutting down"));
}

void CoreThread::Post(core::Event event) { Push({std::move(event), nullptr}); }

core::RequestId CoreThread::Submit(core::GenerateRequest request, UpdateFn on_update) {
  const core::RequestId id = next_id_.fetch_add(1, std::memory_order_relaxed);
  request.id = id;
  Push({core::RequestArrived{std::move(request)}, std::move(on_update)});
  return id;
}

void CoreThread::Cancel(core::RequestId id, core::CancelCause cause, int32_t choice) {
  Post(core::RequestCancelled{id, cause, choice});
}

std::shared_ptr<const http::ServedModel> CoreThread::Model() const {
  MutexLock lock(shown_mutex_);
  return model_;
}

core::ClusterState CoreThread::Cluster() const {
  MutexLock lock(shown_mutex_);
  return shown_.state;
}

bool CoreThread::Ready() const {
  const TimeNs now = clock_.Now();
  MutexLock lock(shown_mutex_);
  return shown_.state.phase == core::ClusterState::Phase::kReady && shown_.state.proven && model_ != nullptr &&
         now - shown_.at < kStaleAfter && now - shown_.progressed < kNoProgress;
}

void CoreThread::Run() {
  std::vector<Item> batch;
  while (Wait(&batch)) {
    for (Item& item : batch) Handle(std::move(item));
    batch.clear();
    if (timer_ != 0 && clock_.Now() >= timer_) {
      timer_ = 0;
      Handle({core::TimerFired{}, nullptr});
    }
    if (std::exchange(publish_first_, false)) Publish();
    // All that the events of this round gave to clients leaves in one burst: one wake-up of the I/O thread per step.
    Deliver();
    if (publish_at_ != 0 && clock_.Now() >= publish_at_) Publish();
  }
}

// Until there are events, or a time has come. False: stop.
bool CoreThread::Wait(std::vector<Item>* batch) {
  MutexLock lock(queue_mutex_);
  while (queue_.empty() && !stop_) {
    TimeNs until = clock_.Now() + kLongWait;
    if (timer_ != 0) until = std::min(until, timer_);
    if (publish_at_ != 0) until = std::min(until, publish_at_);
    const DurationNs wait = until - clock_.Now();
    if (wait <= 0) return true;
    queue_changed_.WaitFor(queue_mutex_, std::chrono::nanoseconds(wait));
  }
  if (stop_) return false;
  batch->swap(queue_);
  return true;
}

void CoreThread::Handle(Item item) {
  if (item.on_update != nullptr) {
    sinks_[std::get<core::RequestArrived>(item.event).request.id] = std::move(item.on_update);
  }
  const TimeNs now = clock_.Now();
  for (const core::Effect& effect : core_.OnEvent(item.event, now)) Apply(effect);
  publish_first_ = publish_first_ || std::holds_alternative<core::LoadAdvanced>(item.event);
  if (publish_at_ == 0) publish_at_ = std::max(now, published_ + kPublishInterval);
}

void CoreThread::Apply(const core::Effect& effect) {
  const auto update = [this](core::RequestId id) -> http::GenerateUpdate& {
    const auto [it, fresh] = updates_.try_emplace(id);
    if (fresh) updated_.push_back(id);
    return it->second;
  };
  if (const auto* emit = std::get_if<core::EmitTokens>(&effect)) {
    http::GenerateUpdate& more = update(emit->id);
    http::ChoiceUpdate& choice = ChoiceOf(emit->choice, &more);
    choice.tokens.insert(choice.tokens.end(), emit->tokens.begin(), emit->tokens.end());
    choice.logprobs.insert(choice.logprobs.end(), emit->logprobs.begin(), emit->logprobs.end());
    more.preemptions = emit->preemptions;
    more.reforms = emit->reforms;
  } else if (const auto* prompt = std::get_if<core::EmitPromptLogprobs>(&effect)) {
    update(prompt->id).prompt_logprobs = prompt->logprobs;
  } else if (const auto* end = std::get_if<core::FinishChoice>(&effect)) {
    ChoiceOf(end->choice, &update(end->id)).finished = end->reason;
  } else if (const auto* finish = std::get_if<core::FinishRequest>(&effect)) {
    http::GenerateUpdate& last = update(finish->id);
    last.finished = true;
    last.reason = finish->reason;
    last.error = finish->error;
    last.retry_after_s = finish->retry_after_s;
    last.preemptions = finish->stats.preemptions;
    last.reforms = finish->stats.reforms;
    last.stats = finish->stats;
  } else if (const auto* timer = std::get_if<core::SetTimer>(&effect)) {
    timer_ = timer->at;
  } else if (const auto* line = std::get_if<core::LogLine>(&effect)) {
    Log(*line);
  } else {
    carry_(effect);
  }
}

void CoreThread::Deliver() {
  for (const core::RequestId id : updated_) {
    const auto sink = sinks_.find(id);
    http::GenerateUpdate& update = updates_[id];
    if (sink == sinks_.end()) continue;  // it has had its last update
    const bool finished = update.finished;
    sink->second(std::move(update));
    if (finished) sinks_.erase(sink);
  }
  updated_.clear();
  updates_.clear();
}

void CoreThread::Publish() {
  const TimeNs now = clock_.Now();
  publish_at_ = 0;
  published_ = now;
  core::ClusterState state = core_.State(now);
  const bool progressed = progress_.Moved(state);
  std::shared_ptr<const http::ServedModel> model = Model();
  const bool ready = state.phase == core::ClusterState::Phase::kReady;
  if (ready && (model == nullptr || model->system_fingerprint != state.numerics_id ||
                model->max_model_len != state.max_model_len)) {
    model = make_model_(state);
  }
  MutexLock lock(shown_mutex_);
  shown_.state = std::move(state);
  shown_.at = now;
  if (progressed) shown_.progressed = now;
  model_ = std::move(model);
}

}  // namespace shoal::server
