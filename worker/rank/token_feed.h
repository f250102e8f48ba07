// Stage 0: the token ids of a plan's rows. Literal ones come from the mirror, sampled ones from the mailbox.
// Every plan that samples makes one message. Messages are taken in step order, as late as possible: when a row needs
// one, or when the mailbox would otherwise be full of messages that nobody needs (their sequences ended).
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"
#include "worker/comm/collective.h"

namespace shoal::rank {

class TokenFeed {
 public:
  // `slots`: how many messages the mailbox holds. `mailbox` outlives this.
  TokenFeed(comm::TokenMailbox* mailbox, int slots) : mailbox_(mailbox), slots_(slots) {}

  // ids = those of the plan's rows, in order. `mirror` has applied the plan. After this, the plan's own message has
  // room.
  absl::Status Ids(const plan::StepPlan& plan, const plan::PlanMirror& mirror, std::vector<int32_t>* ids);

 private:
  struct Message {
    uint64_t step;
    std::vector<plan::SequenceId> sampled;
  };
  struct Newest {
    uint64_t step;  // plan that sampled it
    int32_t token;  // -1: still in the mailbox
  };

  absl::Status LastSample(plan::SequenceId id, int32_t* token);
  absl::Status TakeOldest();
  void Expect(const plan::StepPlan& plan);

  comm::TokenMailbox* const mailbox_;
  const int slots_;
  std::deque<Message> expected_;  // oldest first
  absl::flat_hash_map<plan::SequenceId, Newest> newest_;
  std::vector<int32_t> taken_;
};

}  // namespace shoal::rank
