// The rank's one device thread: takes plans in order, executes them, never decides anything.
//   plan -> check against the mirror -> stage 0: ids (literal, or from the token mailbox) and Embed; others: Receive
//        -> Forward -> last stage: Logits, sample on the sampling rank, post to the mailbox; others: Send -> result
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"
#include "worker/comm/collective.h"
#include "worker/graph/decoder.h"
#include "worker/rank/control_page.h"

namespace shoal::rank {

// Where plans come from: a ring of the agent, or a queue of a test.
class PlanSource {
 public:
  virtual ~PlanSource() = default;
  // The next plan and when it arrived. Cancelled: the engine shall end.
  virtual absl::Status Next(plan::StepPlan* plan, TimeNs* arrived) = 0;
  // Whether one more is there already.
  virtual bool HasNext() const = 0;
};

struct EngineParts {
  int rank = 0;
  plan::RankShard shard;
  int tp = 1, pp = 1;
  plan::MirrorLimits limits;
  device::Device* device = nullptr;
  std::unique_ptr<graph::Decoder> decoder;
  std::vector<ops::KvLayer> kv;  // for block copies
  comm::RankComm* comm = nullptr;
  int mailbox_slots = 8;  // GroupShape's
  PlanSource* plans = nullptr;
  // Called on the engine's thread after each plan. Not OK: nobody will see the answer, and the engine ends.
  std::function<absl::Status(plan::StepResult)> on_result;
  ControlPage* page = nullptr;
  graph::OperationLog* operations = nullptr;  // the decoder's, shown on the page
  // Of an accelerator: so many steps at first run one after the other, without graphs, and are waited for after each
  // operation, so that an error names it.
  int checked_steps = 0;
  // For tests: when true, the next step makes an illegal access, and it is false. Null: there is none.
  std::atomic<bool>* provoke_fault = nullptr;
  const Clock* clock = nullptr;
};

// Runs until the source is cancelled (OK), the group is aborted (Aborted), the transport has lost another rank
// (Unavailable), or something is broken. A plan that fails
// plan_check ends the engine with the error, after a result that carries it: a diverged rank must not go on.
absl::Status RunEngine(EngineParts parts);

}  // namespace shoal::rank
