// JSON of what is served and of the cluster. Internal to http.
#pragma once

#include <string>

#include "coordinator/http/engine.h"

namespace shoal::http {

// OpenAI's model object, with vLLM's root and max_model_len.
std::string ModelJson(const ServedModel& model, const std::string& name);
std::string ModelListJson(const ServedModel& model);

// /v1/cluster.
std::string ClusterJson(const core::ClusterState& state, const plan::StaleCounts& stale);
std::string_view AgentStateName(core::ClusterState::AgentState state);
std::string_view PhaseName(core::ClusterState::Phase phase);

}  // namespace shoal::http
