// Plans that were sent and have not been answered, and what each rank has answered so far. One per epoch.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"

namespace shoal::core {

class Flight {
 public:
  // Rows of a plan that its answer settles.
  struct Row {
    plan::SequenceId id;
    bool sample;
    bool logprobs;   // go along with the sample
    int32_t scored;  // tokens of the prompt, behind its own, whose log-probabilities it gives
    int32_t end;     // position behind its last token: up to there every rank has written KV once this is answered
  };

  Flight(int32_t ranks, int32_t sampling_rank) : answered_(ranks, 0), sampling_rank_(sampling_rank) {}

  // `mirror`: after the plan.
  void Sent(const plan::StepPlan& plan, const plan::PlanMirror& mirror);
  int32_t size() const { return static_cast<int32_t>(plans_.size()); }
  uint64_t last_sent() const { return last_sent_; }

  enum class Verdict : uint8_t {
    kStale,   // answered before; nothing to do
    kNoted,   // a rank that does not sample is done with the plan
    kTokens,  // the plan is answered: its rows are in `rows`, and the result has what those with outputs ask for
    kBroken,  // no rank that works as agreed answers so; `why` says how
  };
  // Precondition: 0 <= result.rank < ranks; the epoch is right.
  Verdict Answer(const plan::StepResult& result, int32_t vocab, std::vector<Row>* rows, std::string* why);

  // The last plans that were sent, oldest first: at most kRecent.
  static constexpr size_t kRecent = 16;
  struct Note {
    uint64_t step;
    int32_t rows, tokens;
  };
  const std::deque<Note>& recent() const { return recent_; }
  uint64_t answered(int32_t rank) const { return answered_[rank]; }  // last step; precondition as Answer's
  int32_t sampling_rank() const { return sampling_rank_; }

  // How often `id` is in plans in flight.
  int32_t Count(plan::SequenceId id) const;

 private:
  struct Plan {
    uint64_t step;
    std::vector<Row> rows;
  };
  static std::string RowMismatch(const Row& row, const plan::RowResult& result, int32_t vocab);
  std::string Mismatch(const Plan& plan, const plan::StepResult& result, int32_t vocab) const;

  std::vector<uint64_t> answered_;  // [ranks] last step
  int32_t sampling_rank_;
  uint64_t last_sent_ = 0;
  std::deque<Plan> plans_;  // by step, not yet answered by the sampling rank
  std::deque<Note> recent_;
};

}  // namespace shoal::core
