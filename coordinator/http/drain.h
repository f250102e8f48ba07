// POST /v1/cluster/drain: which agent is meant, and what becomes of it. Internal to http.
#pragma once

#include <string>
#include <string_view>

#include "coordinator/http/engine.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace shoal::http {

// The answer to {"agent": NAME}: 202 with the agent's id and state; 200 when it has been drained before. NAME is an id,
// the beginning of only one, or the name of a host with only one agent. `drain`: the id of the agent that is to be
// drained now; empty when there is nothing to do.
Response DrainAnswer(std::string_view body, const Limits& limits, const core::ClusterState& state, std::string* drain);

}  // namespace shoal::http
