// Requests from arrival to their one terminal event, and the plans that answer them. Knows a group only as limits, a
// stamp and addressees; membership tells when there is one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/core.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/flight.h"
#include "coordinator/core/kv_blocks.h"
#include "coordinator/core/plan_builder.h"
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
  bool reformed = false;  // with another layout than the group before it
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
  // Nothing happens when it has ended.
  void Cancel(RequestId id, CancelCause cause, TimeNs now, EffectList& fx);
  void EndAll(const absl::Status& error, int32_t retry_after_s, TimeNs now, EffectList& fx);

  // --- The group ---
  // `kv_kept`: every rank has the cache that it had in the group before, so what ran goes on where its last answer left
  // it. Else all is computed again. Requests that the new limits no longer hold end with Unavailable.
  void GroupReady(ServingGroup group, bool kv_kept, TimeNs now, EffectList& fx);
  // Everything that ran waits, in the order of arrival. `blamed`: a step may have caused it; what ran in three of
  // those without a token between them ends with Internal.
  void GroupLost(bool blamed, const std::string& reason, TimeNs now, EffectList& fx);
  // Tokens and rows of one answer. False: the rank broke the rules, `why` says how, nothing was accepted.
  // Precondition: there is a group, and the epoch is its.
  bool Answered(const plan::StepResult& result, std::string* why, TimeNs now, EffectList& fx);
  // An answer of another epoch, or from where the rank does not live: counted, nothing else.
  void Stale() { ++stale_answers_; }
  // Sends plans while the window allows. Called after every event.
  void Pump(TimeNs now, EffectList& fx);

  bool has_group() const { return group_ != nullptr; }
  bool idle() const { return requests_.empty(); }
  bool settled() const { return group_ != nullptr && group_->flight.size() == 0; }  // no plan is unanswered
  void Fill(ClusterState* state) const;
  void CheckInvariants() const;

 private:
  struct Group {
    explicit Group(ServingGroup g);
    ServingGroup info;
    BlockPool pool;
    PlanBuilder builder;
    Flight flight;
    int32_t next_cohort = 0;
  };

  bool SendNext(TimeNs now, EffectList& fx);
  void FillView(int32_t cohort);
  void Rebalance();
  void Resume();
  void Carry(const Decision& decision, TimeNs now);
  void PutOnRanks(Sequence& s, int32_t cohort);
  void StartSequence(Sequence& s, const Decision::Admission& admission, int32_t cohort, TimeNs now);
  void AddRow(Sequence& s, int32_t count);
  void Send(int32_t cohort, EffectList& fx);

  void Accept(Sequence& s, const plan::RowResult& row, TimeNs now, EffectList& fx);
  void Finish(Request& request, FinishReason reason, absl::Status error, int32_t retry_after_s, TimeNs now,
              EffectList& fx);
  void Refuse(const GenerateRequest& request, absl::Status error, int32_t retry_after_s, TimeNs now, EffectList& fx);
  void StopRunning(Sequence& s);  // off the ranks: it ends in the next plan, its blocks are free
  void Forget(Sequence& s);       // answers to its plans concern nobody any more
  void Wait(Sequence& s);

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
  SchedulerView view_;  // kept for its memory
  std::vector<Flight::Row> answered_rows_;
  uint64_t steps_ = 0, preemptions_ = 0, prompt_tokens_ = 0, output_tokens_ = 0, answers_ = 0, stale_answers_ = 0;
  uint64_t resumed_ = 0, recomputed_tokens_ = 0;
};

}  // namespace shoal::core
