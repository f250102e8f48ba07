// The calls to an agent that have one answer or a stream of progress. Each starts at once, ends in events of its link,
// and keeps itself alive until then. Internal to coordinator/rpc.
#pragma once

#include <memory>
#include <string>

#include "coordinator/rpc/agent_link.h"

namespace shoal::rpc {

// Ends in JoinAnswered, with the agent's refusal if it refused; in the loss of the agent when it could not be asked.
void StartJoin(const std::shared_ptr<AgentLink>& link, const plan::JoinGroup& join);
// Ends in LoadAdvanced with `done` (the step stream is open by then) or in LoadFailed.
void StartLoad(const std::shared_ptr<AgentLink>& link, const plan::LoadModel& load);
// Says nothing when the ranks have been told; ends in LoadFailed when the agent refuses.
void StartConnect(const std::shared_ptr<AgentLink>& link, const plan::ConnectRanks& connect);
// Ends in PreloadAdvanced with `done` or in PreloadFailed. A later epoch ends it without a word.
void StartPreload(const std::shared_ptr<AgentLink>& link, const plan::JoinGroup& join);
// Says nothing, unless the agent could not be asked.
void StartAbort(const std::shared_ptr<AgentLink>& link, uint64_t epoch, const std::string& reason);
// Likewise. One that refuses, since it has seen a later epoch, is told again: its heartbeats show that it has not
// heard.
void StartDrain(const std::shared_ptr<AgentLink>& link, uint64_t epoch, plan::DrainState state);

}  // namespace shoal::rpc
