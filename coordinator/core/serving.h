// Requests from arrival to their one terminal event, and the plans that answer them. Knows a group only as limits, a
// stamp and addressees; membership tells when there is one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/canary.h"
#include "coordinator/core/checksums.h"
#include "coordinator/core/core.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/flight.h"
#include "coordinator/core/kv_blocks.h"
#include "coordinator/core/plan_builder.h"
#include "coordinator/core/report.h"
#include "coordinator/core/requests.h"
#include "coordinator/core/scheduler.h"

namespace shoal::core {

// A group that is ready to execute plans.
struct ServingGroup {
  plan::Stamp stamp;  // step 0
  plan::MirrorLimits limits;
  int32_t stages = 1;
  int32_t ranks = 1;
  int32_t sampling_rank = 0;
  int32_t checksum_interval = 0;  // plans; 0: none asks
  bool graphs = false;            // ranks can record steps
  bool reformed = false;          // with another layout or numerics than the group before it
  std::vector<plan::AgentId> agents;
};

class Serving {
 public:
  explicit Serving(int32_t max_queued) : max_queued_(max_queued) {}
  Serving(const Serving&) = delete;

  // --- Clients ---
  // Accepts it, or ends it at once: InvalidArgument, ResourceExhausted when the queue is full. Before the first group
  // the limits are unknown; then `admit_error` must say why nothing is admitted, as while draining.
  void Arrive(GenerateRequest request, const absl::Status& admit_error, TimeNs now, EffectList& fx);
  // `choice` alone, or all of them: -1. Nothing happens when it has ended.
  void Cancel(RequestId id, CancelCause cause, int32_t choice, TimeNs now, EffectList& fx);
  void EndAll(const absl::Status& error, int32_t retry_after_s, TimeNs now, EffectList& fx);

  // --- The group ---
  // `kv_kept`: every rank has the cache that it had in the group before, so what ran goes on where its last answer left
  // it. Else all is computed again. Requests that the new limits no longer hold end with Unavailable.
  void GroupReady(ServingGroup group, bool kv_kept, TimeNs now, EffectList& fx);
  // Everything that ran waits, in the order of arrival; a canary is dropped. `blamed`: a step may have caused it; then
  // quarantine.h says who runs alone from now on, and who ends with FailedPrecondition.
  void GroupLost(bool blamed, const std::string& reason, TimeNs now, EffectList& fx);
  // Tokens and rows of one answer. False: the rank broke the rules, `why` says how, nothing was accepted.
  // Precondition: there is a group, and the epoch is its.
  bool Answered(const plan::StepResult& result, std::string* why, TimeNs now, EffectList& fx);
  // The last answer showed that ranks disagree about what they should hold alike: told once, nothing of that answer was
  // accepted.
  std::optional<ChecksumWatch::Mismatch> TakeMismatch() { return std::exchange(mismatch_, std::nullopt); }
  // A row of a client was no number since this was asked last.
  bool TakeNotFinite() { return std::exchange(not_finite_, false); }
  // Plans of clients in this group that were asked for checksums, and agreed.
  uint64_t plans_agreed() const { return group_ != nullptr ? group_->checksums.plans_agreed() : 0; }
  // An answer of another epoch, or from where the rank does not live: counted, nothing else.
  void Stale() { ++stale_answers_; }
  // Sends plans while the window allows. Called after every event.
  void Pump(TimeNs now, EffectList& fx);

  // --- The canary: a request of our own that no client sees and no figure counts ---
  // It ends at once when a client's request arrives, unless it comes `first`: then all others wait for its end.
  // Precondition: there is a group, no canary runs, and the prompt fits.
  void StartCanary(std::vector<int32_t> prompt, int32_t tokens, bool first);
  bool canary_runs() const { return canary_ != nullptr; }
  // What it was answered, once.
  std::optional<CanaryAnswer> TakeCanary() { return std::exchange(canary_answer_, std::nullopt); }

  bool has_group() const { return group_ != nullptr; }
  bool idle() const { return requests_.empty(); }                                   // of clients
  bool settled() const { return group_ != nullptr && group_->flight.size() == 0; }  // no plan is unanswered
  // A row of a client was answered by this group, a part of its prompt or a token, and was a number.
  bool proven() const { return group_ != nullptr && group_->proven; }
  // Of the present group; 0 without one.
  int32_t unanswered() const { return group_ != nullptr ? group_->flight.size() : 0; }
  uint64_t last_sent() const { return group_ != nullptr ? group_->flight.last_sent() : 0; }
  std::vector<PlanNote> RecentPlans() const;
  void Fill(ClusterState* state) const;
  void CheckInvariants() const;

 private:
  struct Group {
    explicit Group(ServingGroup g);
    ServingGroup info;
    BlockPool pool;
    PlanBuilder builder;
    Flight flight;
    ChecksumWatch checksums;
    int32_t next_cohort = 0;
    bool proven = false;
  };

  bool SendNext(TimeNs now, EffectList& fx);
  // The one that alone may run now; null: all may.
  Sequence* FindAlone();
  // So that `s` can run alone: gives its next row or its start room, from those that wait for it. False: plans with
  // others are still under way.
  bool MakeWay(Sequence& s);
  void FillView(int32_t cohort);
  void FillWaiting();
  void ViewWaiting(Sequence& s);
  void Rebalance();
  void Resume();
  void Carry(const Decision& decision, TimeNs now);
  void PutOnRanks(Sequence& s, int32_t cohort);
  void StartSequence(Sequence& s, const Sequence* source, const Decision::Admission& admission, int32_t cohort,
                     TimeNs now);
  void AddRow(Sequence& s, int32_t count);

  // --- Choices of one request (serving_choices.cc) ---
  int32_t PromptBlocks(const Request& r) const;
  bool OneOfMany(const Sequence& s) const { return s.request->sequences.size() > 1; }
  // A sibling that runs and whose KV of the prompt `s` may take over in the next plan; null: none.
  const Sequence* Source(const Sequence& s) const;
  // Another one of the request computes the prompt, or comes first to do it.
  bool AwaitsPrompt(const Sequence& s) const;
  void TakePrompt(const Sequence& source, Sequence& s);     // whole blocks, shared
  void CopyPromptEnd(const Sequence& source, Sequence& s);  // into a block of its own
  Scored ScoredRows(const Sequence& s) const;
  void TakePromptLogprobs(Request& r, std::vector<plan::TokenLogprobs> logprobs, EffectList& fx);
  void FinishChoice(Sequence& s, FinishReason reason, TimeNs now, EffectList& fx);
  void TakeOff(Sequence& s);  // wherever it is

  void Send(int32_t cohort, EffectList& fx);

  void Settle(const Flight::Row& row, const plan::RowResult* answer, TimeNs now, EffectList& fx);
  void Accept(Sequence& s, const Flight::Row& row, const plan::RowResult& answer, TimeNs now, EffectList& fx);
  void AcceptToken(Sequence& s, int32_t token, std::vector<plan::TokenLogprobs> logprobs, TimeNs now, EffectList& fx);
  void AcceptCanary(const plan::RowResult& row);
  // Of the requests that were in plans under way when the group was lost.
  void BlameAll(const std::vector<Request*>& aboard, const std::string& reason, TimeNs now, EffectList& fx);
  void Finish(Request& request, FinishReason reason, absl::Status error, int32_t retry_after_s, TimeNs now,
              EffectList& fx);
  void Refuse(const GenerateRequest& request, absl::Status error, int32_t retry_after_s, TimeNs now, EffectList& fx);
  void StopRunning(Sequence& s);  // off the ranks: it ends in the next plan, its blocks are free
  void Preempt(Sequence& s);
  void Forget(Sequence& s);  // answers to its plans concern nobody any more
  void Wait(Sequence& s);
  void DropCanary();
  int32_t running() const;  // of clients
  int32_t waiting() const;
  void CheckOne(const Request& r) const;
  void CheckSequence(const Request& r, const Sequence& s) const;
  void CheckGroup() const;

  const int32_t max_queued_;
  uint64_t next_order_ = 1;
  plan::SequenceId next_sequence_ = 1;
  absl::flat_hash_map<RequestId, std::unique_ptr<Request>> requests_;
  absl::flat_hash_map<plan::SequenceId, Sequence*> by_id_;  // running, or preempted with plans unanswered
  std::vector<Sequence*> running_;                          // by arrival
  std::map<uint64_t, Sequence*> waiting_;                   // by arrival
  std::unique_ptr<Group> group_;
  plan::MirrorLimits limits_;  // of the last group
  ServiceRate rate_;
  SchedulerView view_;             // kept for its memory
  std::vector<Sequence*> viewed_;  // those of view_.running, in its order
  struct Candidate {
    Sequence* sequence;
    const Sequence* source;  // whose prompt it takes over; null: nobody's
  };
  std::vector<Candidate> viewed_waiting_;  // those of view_.waiting, in its order
  bool quarantine_ = false;                // perhaps somebody has to run alone
  Sequence* alone_ = nullptr;              // of the plan that is being made: the only one in it
  std::unique_ptr<Request> canary_;
  bool canary_first_ = false;
  std::optional<CanaryAnswer> canary_answer_;
  std::optional<ChecksumWatch::Mismatch> mismatch_;
  bool not_finite_ = false;
  std::vector<Flight::Row> answered_rows_;
  uint64_t steps_ = 0, preemptions_ = 0, prompt_tokens_ = 0, output_tokens_ = 0, answers_ = 0, stale_answers_ = 0;
  uint64_t resumed_ = 0, recomputed_tokens_ = 0, poisoned_ = 0, checksums_agreed_ = 0;
  std::map<int32_t, uint64_t> mismatches_;  // by rank
};

}  // namespace shoal::core
