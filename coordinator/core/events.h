// What goes into the core and what comes out. Plain data: a recorded list of events replays a run.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/control.h"
#include "common/plan/step_plan.h"
#include "coordinator/core/canary.h"
#include "coordinator/core/request.h"

namespace shoal::core {

// --- Events ---
struct RequestArrived {
  GenerateRequest request;
};
// kStopString: the text side ended the answer; counts as FinishReason::kStop.
enum class CancelCause : uint8_t { kDisconnect, kStopString };
struct RequestCancelled {
  RequestId id;
  CancelCause cause;
  int32_t choice = -1;  // this one alone; -1: all
};

struct AgentRegistered {
  plan::AgentInfo info;
};
struct AgentLost {
  plan::AgentId agent;
  std::string reason;
};  // its stream broke, or it left
struct HeartbeatReceived {
  plan::Heartbeat heartbeat;
};
struct JoinAnswered {
  plan::AgentId agent;
  uint64_t epoch;
  absl::StatusOr<plan::JoinReply> reply;
};
struct LoadAdvanced {
  uint64_t epoch;
  plan::LoadProgress progress;
};
struct LoadFailed {
  plan::AgentId agent;
  uint64_t epoch;
  absl::Status status;
};
// Of SendPreload; with progress.done, `reply` is what a join would be answered with.
struct PreloadAdvanced {
  uint64_t epoch;
  plan::LoadProgress progress;
  plan::JoinReply reply;
};
struct PreloadFailed {
  plan::AgentId agent;
  uint64_t epoch;
  absl::Status status;
};
struct StepAnswered {
  plan::AgentId agent;
  plan::StepResult result;
};
struct RankExited {
  plan::AgentId agent;
  plan::RankExit exit;
};

// Give the agent's ranks to another one without losing a token, and no more to it.
struct DrainRequested {
  plan::AgentId agent;
};
struct ShutdownRequested {};  // finish what was accepted, admit nothing
struct TimerFired {};         // the time asked for by SetTimer has come

using Event = std::variant<RequestArrived, RequestCancelled, AgentRegistered, AgentLost, HeartbeatReceived,
                           JoinAnswered, LoadAdvanced, LoadFailed, PreloadAdvanced, PreloadFailed, StepAnswered,
                           RankExited, DrainRequested, ShutdownRequested, TimerFired>;

// --- Effects, to be carried out in order ---
struct SendJoin {
  plan::AgentId agent;
  plan::JoinGroup join;
};
struct SendLoad {
  plan::AgentId agent;
  plan::LoadModel load;
};
// While loading, once all ranks have published their addresses: those of all. A refusal comes back as LoadFailed.
struct SendConnect {
  plan::AgentId agent;
  plan::ConnectRanks connect;
};
// Read the weights of its ranks in a group to come, and join nothing.
struct SendPreload {
  plan::AgentId agent;
  plan::JoinGroup join;
};
// One plan to every agent of the group.
struct SendPlan {
  std::vector<plan::AgentId> agents;
  plan::Stamp stamp;
  std::string bytes;
};
// Drop the sequences, ranks and communicators of epochs below `epoch`; keep the weights.
struct SendAbort {
  plan::AgentId agent;
  uint64_t epoch;
  std::string reason;
};

// What the agent shall say of itself from now on, also to the coordinators after this one.
struct SendDrain {
  plan::AgentId agent;
  uint64_t epoch;
  plan::DrainState state;
};

struct EmitTokens {
  RequestId id;
  std::vector<int32_t> tokens;
  int32_t preemptions;  // of the request, so far
  int32_t reforms;      // changes of the group's layout or numerics since it was accepted
  int32_t choice = 0;
  std::vector<plan::TokenLogprobs> logprobs{};  // one for each token; empty: they were not asked for
};
// Once, before the first token, when they were asked for: those of the prompt's second token, third, ...
struct EmitPromptLogprobs {
  RequestId id;
  std::vector<plan::TokenLogprobs> logprobs;
};
// This choice has all that it gets, and others of its request have not: kStop or kLength.
struct FinishChoice {
  RequestId id;
  int32_t choice;
  FinishReason reason;
};
// The one terminal event of a request: of all choices without a FinishChoice, which is one when `reason` is kStop or
// kLength. kError: `error` is ResourceExhausted (queue full; retry_after_s says when),
// Unavailable (no group; cluster fault), InvalidArgument, FailedPrecondition (poison: it makes ranks fail, and shall
// not be sent again), or Internal.
struct FinishRequest {
  RequestId id;
  FinishReason reason;
  absl::Status error;
  int32_t retry_after_s;
  RequestStats stats;
};
struct SetTimer {
  TimeNs at;
};  // replaces the one before
struct LogLine {
  enum class Level : uint8_t { kInfo, kWarning, kError } level;
  std::string text;
};

// Something was detected: to be written down, away from the core's thread. See report.h.
struct StallReport;
struct Report {
  std::shared_ptr<const StallReport> what;
};

// To be kept for the coordinators after this one, away from the core's thread.
struct CanaryLearned {
  KnownCanary known;
};

using Effect = std::variant<SendJoin, SendLoad, SendConnect, SendPreload, SendPlan, SendAbort, SendDrain, EmitTokens,
                            EmitPromptLogprobs, FinishChoice, FinishRequest, SetTimer, LogLine, Report, CanaryLearned>;

}  // namespace shoal::core
