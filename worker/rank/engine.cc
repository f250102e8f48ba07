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
#include "worker/rank/row_results.h"
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
  graph::OperationSet operations;           // that it was enqueued with
  DurationNs waited = 0;                    // on other ranks, while it was enqueued
};

class Engine {
 public:
  Engine(EngineParts* parts, std::unique_ptr<StepRunner> runner, int steps)
      : p_(*parts),
        mirror_(p_.limits),
        runner_(std::move(runner)),
        steps_(steps),
        checked_left_(p_.device->is_host() ? 0 : p_.checked_steps) {}

  absl::Status Run();

 private:
  absl::Status TakePlan(bool* ended);
  absl::Status Enqueue(const plan::StepPlan& plan, TimeNs arrived);
  absl::StatusOr<bool> FinishOldest();
  absl::Status RecordMore();
  absl::Status FinishAll();
  absl::Status FailOldest(const absl::Status& why);
  absl::Status Fail(Flight flight, const absl::Status& why);
  std::string Where(const Flight& failed);
  void RecordSamples(const Flight& flight);
  void Count(const Flight& flight, bool next_is_here);
  absl::Status Pause();
  absl::Status Look();
  absl::Status AwaitDevice();
  void CountChecked();

  void Begin(Operation op) { p_.operations->Begin(op); }
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
  const size_t steps_;          // at once
  int checked_left_;            // steps that are still to be checked
  std::deque<Flight> flights_;  // oldest first
  TimeNs idle_since_ = 0;       // end of the last step
  bool failed_ = false;         // and the answer said so
  int looks_ = 0;               // in a row that found nothing
  std::optional<comm::NotedWait> on_peer_;
};

// Plans go to the device as they come; results are handed over as it comes to them.
absl::Status Engine::Run() {
  p_.device->stream().progress = &p_.page->progress;
  if (checked_left_ > 0) p_.operations->Check([this] { return AwaitDevice(); });
  bool ended = false;
  while (!stopped() && !ended) {
    if (!flights_.empty()) {
      SHOAL_ASSIGN_OR_RETURN(const bool finished, FinishOldest());
      if (finished) continue;
      if (flights_.size() >= (checked_left_ > 0 ? 1 : steps_) || !p_.plans->HasNext()) {
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
  p_.operations->Take();  // so far nothing is of this step
  if (status.ok())
    status = runner_->Enqueue(
        plan, mirror_, [this] { return RecordMore(); }, &flight.step);
  flight.waited = p_.comm->stats->waited - waited;
  flight.operations = p_.operations->Take();
  if (status.ok()) {
    flights_.push_back(std::move(flight));
    CountChecked();
    return absl::OkStatus();
  }
  if (failed_) return status;  // a step before it, while this one waited, with an answer that tells
  // Nobody waits for the answer any more, or another rank is lost, and its agent says so.
  if (absl::IsAborted(status) || absl::IsUnavailable(status)) return status;
  if (!flights_.empty() && !p_.device->Reached(flights_.front().step.mark).ok()) {
    flights_.push_back(std::move(flight));  // the device has failed, in one of them
    return FailOldest(status);
  }
  SHOAL_RETURN_IF_ERROR(FinishAll());  // answers are in the order of plans
  return Fail(std::move(flight), status);
}

absl::StatusOr<bool> Engine::FinishOldest() {
  Flight& flight = flights_.front();
  const absl::StatusOr<bool> reached = p_.device->Reached(flight.step.mark);
  if (!reached.ok()) return FailOldest(reached.status());
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
  RecordSamples(flight);
  flight.result.rows = RowResultsOf(flight.step);
  Count(flight, flights_.size() > 1 || p_.plans->HasNext());
  const Flight done = std::move(flight);
  flights_.pop_front();
  Begin(Operation::kAnswer);
  SHOAL_RETURN_IF_ERROR(p_.on_result(done.result));
  return true;
}

// Steps are finished in order, so the next one's tokens are the next to be known.
absl::Status Engine::RecordMore() {
  if (flights_.empty()) return absl::InternalError("a sample depends on tokens that no step samples");
  SHOAL_ASSIGN_OR_RETURN(const bool finished, FinishOldest());
  return finished ? absl::OkStatus() : Pause();
}

absl::Status Engine::FinishAll() {
  while (!flights_.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const bool finished, FinishOldest());
    if (!finished) SHOAL_RETURN_IF_ERROR(Pause());
  }
  return absl::OkStatus();
}

// While something is under way.
absl::Status Engine::Pause() {
  p_.operations->Show(Operation::kAwait);
  const absl::Status found = Look();
  if (found.ok() || absl::IsAborted(found) || absl::IsUnavailable(found)) return found;
  return FailOldest(found);
}

// An OperationLog's, after each operation of a step that is checked. Others may wait for this one meanwhile, as for a
// slow one; that it waits for them ends as other waits do.
absl::Status Engine::AwaitDevice() {
  SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, p_.device->Mark());
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const bool reached, p_.device->Reached(mark));
    if (reached) break;
    SHOAL_RETURN_IF_ERROR(Look());
  }
  looks_ = 0;
  on_peer_.reset();
  return absl::OkStatus();
}

void Engine::CountChecked() {
  if (checked_left_ > 0 && --checked_left_ == 0) p_.operations->Check(nullptr);
}

absl::Status Engine::Look() {
  if (aborted()) return absl::AbortedError("the group was aborted");
  if (p_.comm->watch != nullptr) SHOAL_RETURN_IF_ERROR(p_.comm->watch->Poll());
  if (++looks_ <= kLooksAtOnce) return absl::OkStatus();
  // What stands still there may wait for another rank, in an operation that the host does not see into. Who watches
  // is told of a neighbour; a device that hangs by itself is then found by the plan's deadline.
  if (p_.comm->watch != nullptr && !on_peer_.has_value()) on_peer_.emplace(&p_.page->waiting, Neighbour() + 1);
  if (on_peer_.has_value()) on_peer_->Look();
  std::this_thread::sleep_for(kLookPause);
  return absl::OkStatus();
}

absl::Status Engine::FailOldest(const absl::Status& why) {
  Flight oldest = std::move(flights_.front());
  flights_.pop_front();
  return Fail(std::move(oldest), why);
}

// What is known of where it happened. A device that has failed says so of all that is under way, and of no step or
// operation: those that it may have been are named, or the one of steps that are checked.
std::string Engine::Where(const Flight& failed) {
  constexpr size_t kNamed = 8;
  graph::OperationSet operations = failed.operations;
  std::vector<plan::SequenceId> sequences = failed.sequences;
  for (const Flight& later : flights_) {
    operations |= later.operations;
    sequences.insert(sequences.end(), later.sequences.begin(), later.sequences.end());
  }
  std::sort(sequences.begin(), sequences.end());
  sequences.erase(std::unique(sequences.begin(), sequences.end()), sequences.end());
  const size_t named = std::min(sequences.size(), kNamed);
  std::string where = flights_.empty() ? absl::StrCat("step ", failed.result.stamp.step)
                                       : absl::StrCat("a step of ", failed.result.stamp.step, " to ",
                                                      flights_.back().result.stamp.step);
  absl::StrAppend(&where, ", sequences ", absl::StrJoin(sequences.begin(), sequences.begin() + named, ", "),
                  named < sequences.size() ? ", ..." : "");
  if (!absl::IsInternal(p_.device->Mark().status())) return where;  // it is well
  p_.page->device_failed.store(1, std::memory_order_release);
  const std::optional<Operation> operation = p_.operations->Failed();
  absl::StrAppend(&where,
                  operation.has_value()
                      ? absl::StrCat("; in ", std::string(graph::OperationName(static_cast<uint32_t>(*operation))))
                      : absl::StrCat("; one of: ", graph::OperationNames(operations)));
  return where;
}

// The answer that carries the error, in place of those of all that is under way.
absl::Status Engine::Fail(Flight flight, const absl::Status& why) {
  const absl::Status full(why.code(), p_.device->is_host() ? std::string(why.message())
                                                           : absl::StrCat(why.message(), " (", Where(flight), ")"));
  flights_.clear();
  failed_ = true;
  flight.result.times.ended = p_.clock->Now();
  flight.result.times.waited = flight.waited;
  flight.result.rows.clear();
  flight.result.checksum = 0;
  flight.result.error = full.ToString();
  Begin(Operation::kAnswer);
  p_.on_result(std::move(flight.result)).IgnoreError();  // it ends anyway
  return full;
}

// For samplings that depend on them. Plans that are under way continue from token 0 where there was none.
void Engine::RecordSamples(const Flight& flight) {
  for (const OutputRow& row : flight.step.rows) {
    if (row.sample >= 0) mirror_.RecordSample(row.id, std::max(flight.step.tokens[row.sample], 0));
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

// Until nothing is under way. A device that has failed does no more.
void AwaitEnd(device::Device& device) {
  const absl::StatusOr<uint64_t> mark = device.Mark();
  while (mark.ok()) {
    const absl::StatusOr<bool> reached = device.Reached(*mark);
    if (!reached.ok() || *reached) return;
    std::this_thread::sleep_for(kLookPause);
  }
}

}  // namespace

absl::Status RunEngine(EngineParts parts) {
  SHOAL_CHECK(parts.decoder != nullptr && parts.comm != nullptr && parts.page != nullptr &&
              parts.operations != nullptr && parts.on_result != nullptr);
  const int steps = parts.mailbox_slots;
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<StepRunner> runner, StepRunner::Create(&parts, steps));
  StepRunner* const of_engine = runner.get();
  Engine engine(&parts, std::move(runner), steps);
  const absl::Status ended = engine.Run();
  parts.operations->Check(nullptr);  // by this engine
  of_engine->ForgetGraphs();
  if (ended.ok()) return ended;
  // What is under way may wait for ranks that will not come, and uses memory that now goes.
  if (parts.comm->watch != nullptr) parts.comm->watch->Abort();
  AwaitEnd(*parts.device);
  return ended;
}

}  // namespace shoal::rank
