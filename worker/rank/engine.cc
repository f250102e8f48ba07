#include "worker/rank/engine.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/checksum.h"
#include "common/base/status_macros.h"
#include "common/plan/control.h"
#include "worker/rank/operation.h"
#include "worker/rank/step_runner.h"

namespace shoal::rank {
namespace {

// Looks at a device that has not come so far: at once, then with pauses short against a step.
constexpr int kLooksAtOnce = 200;
constexpr std::chrono::microseconds kLookPause(20);

// A plan that the device is executing.
struct Flight {
  plan::StepResult result;
  EnqueuedStep step;
  std::vector<plan::SequenceId> sequences;  // with rows in it
  DurationNs waited = 0;                    // on other ranks, while it was enqueued
};

class Engine {
 public:
  Engine(EngineParts* parts, std::unique_ptr<StepRunner> runner, int steps)
      : p_(*parts), mirror_(p_.limits), runner_(std::move(runner)), steps_(steps) {}

  absl::Status Run();

 private:
  absl::Status TakePlan(bool* ended);
  absl::Status Enqueue(const plan::StepPlan& plan, TimeNs arrived);
  absl::StatusOr<bool> FinishOldest();
  absl::Status FinishAll();
  absl::Status Fail(Flight flight, const absl::Status& why);
  void FillRows(Flight& flight);
  void Count(const Flight& flight, bool next_is_here);
  absl::Status Pause();

  void Begin(Operation op) {
    p_.page->operation.store(static_cast<uint32_t>(op), std::memory_order_relaxed);
    p_.device->stream().Advance();
  }
  void SetState(plan::RankState s) { p_.page->state.store(static_cast<uint32_t>(s), std::memory_order_relaxed); }
  // A rank that this one exchanges data with.
  uint32_t Neighbour() const {
    const int stage = p_.rank / p_.tp, t = p_.rank % p_.tp;
    return static_cast<uint32_t>(p_.tp > 1 ? stage * p_.tp + (t + 1) % p_.tp : (stage + 1) % p_.pp);
  }
  bool stopped() const { return p_.page->stop.load(std::memory_order_acquire) != 0; }
  bool aborted() const { return p_.page->abort.load(std::memory_order_acquire) != 0; }

  EngineParts& p_;
  plan::PlanMirror mirror_;
  const std::unique_ptr<StepRunner> runner_;
  const size_t steps_;
  std::deque<Flight> flights_;  // oldest first
  TimeNs idle_since_ = 0;       // end of the last step
  int looks_ = 0;               // in a row that found nothing
  std::optional<comm::NotedWait> on_peer_;
};

// Plans go to the device as they come; results are handed over as it comes to them.
absl::Status Engine::Run() {
  p_.device->stream().progress = &p_.page->progress;
  bool ended = false;
  while (!stopped() && !ended) {
    if (!flights_.empty()) {
      SHOAL_ASSIGN_OR_RETURN(const bool finished, FinishOldest());
      if (finished) continue;
      if (flights_.size() >= steps_ || !p_.plans->HasNext()) {
        SHOAL_RETURN_IF_ERROR(Pause());
        continue;
      }
    }
    SHOAL_RETURN_IF_ERROR(TakePlan(&ended));
  }
  return FinishAll();
}

// Waits for one while the device has nothing to do.
absl::Status Engine::TakePlan(bool* ended) {
  if (flights_.empty()) {
    Begin(Operation::kIdle);
    SetState(plan::RankState::kReady);
  }
  plan::StepPlan plan;
  TimeNs arrived = 0;
  const absl::Status next = p_.plans->Next(&plan, &arrived);
  *ended = absl::IsCancelled(next);
  if (*ended) return absl::OkStatus();
  SHOAL_RETURN_IF_ERROR(next);
  if (aborted()) return absl::AbortedError("the group was aborted");
  SetState(plan::RankState::kRunning);
  return Enqueue(plan, arrived);
}

absl::Status Engine::Enqueue(const plan::StepPlan& plan, TimeNs arrived) {
  Flight flight;
  flight.result.stamp = plan.stamp;
  flight.result.rank = p_.rank;
  flight.result.times.received = arrived;
  flight.result.times.started = p_.clock->Now();
  for (const plan::Row& row : plan.rows) flight.sequences.push_back(row.id);
  const DurationNs waited = p_.comm->stats->waited;
  Begin(Operation::kCheckPlan);
  absl::Status status = mirror_.Apply(plan, true);
  if (status.ok()) status = runner_->Enqueue(plan, mirror_, &flight.step);
  flight.waited = p_.comm->stats->waited - waited;
  if (status.ok()) {
    flights_.push_back(std::move(flight));
    return absl::OkStatus();
  }
  // Nobody waits for the answer any more, or another rank is lost, and its agent says so.
  if (absl::IsAborted(status) || absl::IsUnavailable(status)) return status;
  SHOAL_RETURN_IF_ERROR(FinishAll());  // answers are in the order of plans
  return Fail(std::move(flight), status);
}

absl::StatusOr<bool> Engine::FinishOldest() {
  Flight& flight = flights_.front();
  const absl::StatusOr<bool> reached = p_.device->Reached(flight.step.mark);
  if (!reached.ok()) {
    Flight failed = std::move(flight);
    flights_.clear();
    return Fail(std::move(failed), reached.status());
  }
  if (!*reached) return false;
  looks_ = 0;
  on_peer_.reset();
  plan::StepTimes& times = flight.result.times;
  times.started = std::max(times.started, idle_since_);
  times.ended = idle_since_ = p_.clock->Now();
  times.waited = flight.waited;
  times.sampling = flight.step.sampling;
  if (!flight.step.sums.empty()) {  // never 0
    flight.result.checksum = std::max<uint64_t>(Checksum64(std::as_bytes(flight.step.sums), 1), 1);
  }
  FillRows(flight);
  Count(flight, flights_.size() > 1 || p_.plans->HasNext());
  const Flight done = std::move(flight);
  flights_.pop_front();
  Begin(Operation::kAnswer);
  SHOAL_RETURN_IF_ERROR(p_.on_result(done.result));
  return true;
}

absl::Status Engine::FinishAll() {
  while (!flights_.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const bool finished, FinishOldest());
    if (!finished) SHOAL_RETURN_IF_ERROR(Pause());
  }
  return absl::OkStatus();
}

absl::Status Engine::Pause() {
  if (aborted()) return absl::AbortedError("the group was aborted");
  if (p_.comm->watch != nullptr) SHOAL_RETURN_IF_ERROR(p_.comm->watch->Poll());
  p_.page->operation.store(static_cast<uint32_t>(Operation::kAwait), std::memory_order_relaxed);
  if (++looks_ <= kLooksAtOnce) return absl::OkStatus();
  // What stands still there may wait for another rank, in an operation that the host does not see into. Who watches
  // is told of a neighbour; a device that hangs by itself is then found by the plan's deadline.
  if (p_.comm->watch != nullptr && !on_peer_.has_value()) on_peer_.emplace(&p_.page->waiting, Neighbour() + 1);
  if (on_peer_.has_value()) on_peer_->Look();
  std::this_thread::sleep_for(kLookPause);
  return absl::OkStatus();
}

// The answer that carries the error. A device does not say what of a step has failed: its sequences are named.
absl::Status Engine::Fail(Flight flight, const absl::Status& why) {
  constexpr size_t kNamed = 8;
  const size_t named = std::min(flight.sequences.size(), kNamed);
  const absl::Status full(
      why.code(), p_.device->is_host()
                      ? std::string(why.message())
                      : absl::StrCat(why.message(), " (step ", flight.result.stamp.step, ", sequences ",
                                     absl::StrJoin(flight.sequences.begin(), flight.sequences.begin() + named, ", "),
                                     named < flight.sequences.size() ? ", ..." : "", ")"));
  flight.result.times.ended = p_.clock->Now();
  flight.result.times.waited = flight.waited;
  flight.result.rows.clear();
  flight.result.checksum = 0;
  flight.result.error = full.ToString();
  Begin(Operation::kAnswer);
  p_.on_result(std::move(flight.result)).IgnoreError();  // it ends anyway
  return full;
}

void Engine::FillRows(Flight& flight) {
  for (size_t i = 0; i < flight.step.sampled.size(); ++i) {
    plan::RowResult& row = flight.result.rows.emplace_back();
    row.id = flight.step.sampled[i];
    const int32_t token = flight.step.tokens[i];
    // The coordinator will end this sequence. Plans that are under way already continue from token 0.
    if (token < 0) {
      row.error = plan::RowError::kNotFinite;
    } else {
      row.tokens = {token};
    }
  }
}

void Engine::Count(const Flight& flight, bool next_is_here) {
  ControlPage& page = *p_.page;
  for (size_t t = 0; t < comm::kTransportNames.size(); ++t) {
    const comm::SentBytes& sent = p_.comm->stats->sent[t];
    page.sent[t].tensor.store(sent.tensor, std::memory_order_relaxed);
    page.sent[t].activation.store(sent.activation, std::memory_order_relaxed);
    page.sent[t].token.store(sent.token, std::memory_order_relaxed);
  }
  if (flight.step.decodes) {
    page.decode_steps.fetch_add(1, std::memory_order_relaxed);
    if (next_is_here) page.decode_steps_planned.fetch_add(1, std::memory_order_relaxed);
  }
  page.step.store(flight.result.stamp.step, std::memory_order_release);
}

}  // namespace

absl::Status RunEngine(EngineParts parts) {
  SHOAL_CHECK(parts.decoder != nullptr && parts.comm != nullptr && parts.page != nullptr && parts.on_result != nullptr);
  const int steps = parts.mailbox_slots;
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<StepRunner> runner, StepRunner::Create(&parts, steps));
  StepRunner* const of_engine = runner.get();
  Engine engine(&parts, std::move(runner), steps);
  const absl::Status ended = engine.Run();
  // What is under way may wait for ranks that will not come, and memory is given back only when the device is done.
  of_engine->ForgetGraphs();
  if (!ended.ok() && parts.comm->watch != nullptr) parts.comm->watch->Abort();
  return ended;
}

}  // namespace shoal::rank
