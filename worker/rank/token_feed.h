// Stage 0: the token ids of a plan's rows. Literal ones come from the mirror; sampled ones stay where the device's ops
// read them, one for each place of a sequence: the host never sees them here.
// Every plan that samples makes one message. Messages are taken in step order, as late as possible: when a row needs
// one, or when the mailbox would otherwise be full of messages that nobody needs (their sequences ended).
#pragma once

#include <deque>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"
#include "worker/comm/collective.h"
#include "worker/device/device.h"
#include "worker/rank/places.h"

namespace shoal::rank {

class TokenFeed {
 public:
  // `slots`: how many messages the mailbox holds, each with at most `max_sequences` tokens. All pointers outlive this.
  static absl::StatusOr<TokenFeed> Create(device::Device* device, comm::TokenMailbox* mailbox, int slots,
                                          int max_sequences, const Places* places);

  // Those of the plan's rows, in order, as ops::GatherIdsArgs has them with last(). `mirror` and the places have
  // applied the plan. After this, the plan's own message has room.
  absl::Status Sources(const plan::StepPlan& plan, const plan::PlanMirror& mirror, std::vector<int32_t>* sources);
  const int32_t* last() const { return last_.as<const int32_t>(); }

 private:
  struct Message {
    uint64_t step;
    std::vector<plan::SequenceId> sampled;
  };
  struct Newest {
    uint64_t step;  // plan that sampled it
    bool taken;     // else it is still in the mailbox
  };

  TokenFeed(device::Device* device, comm::TokenMailbox* mailbox, int slots, const Places* places)
      : device_(device), mailbox_(mailbox), slots_(slots), places_(places), message_places_(device) {}
  absl::Status LastSample(plan::SequenceId id, int32_t* source);
  absl::Status TakeOldest();
  void Expect(const plan::StepPlan& plan);

  device::Device* device_;
  comm::TokenMailbox* mailbox_;
  int slots_;
  const Places* places_;
  device::Memory last_;   // int32 [places]
  device::Memory taken_;  // int32 [max_sequences]: a message
  device::UploadBuffer message_places_;
  std::deque<Message> expected_;  // oldest first
  absl::flat_hash_map<plan::SequenceId, Newest> newest_;
  std::vector<int32_t> indices_;
};

}  // namespace shoal::rank
