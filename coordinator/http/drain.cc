// Tested by: tests/http/drain_test.cc
#include "coordinator/http/drain.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/http/errors.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/model_json.h"

namespace shoal::http {
namespace {

namespace json = boost::json;
using Agent = core::ClusterState::Agent;
using AgentState = core::ClusterState::AgentState;

constexpr size_t kNamed = 16;  // agents that an error lists

std::string Listed(const core::ClusterState& state) {
  if (state.agents.empty()) return "there are no agents";
  std::string text = "there are ";
  for (size_t i = 0; i < state.agents.size(); ++i) {
    if (i == kNamed) return text + ", ...";
    const Agent& agent = state.agents[i];
    absl::StrAppend(&text, i == 0 ? "" : ", ", agent.info.id, " on ", agent.info.hostname);
  }
  return text;
}

// An exact id before all else; then whoever is the only one that the name can mean.
std::vector<const Agent*> Find(const core::ClusterState& state, const std::string& name) {
  std::vector<const Agent*> found;
  for (const Agent& agent : state.agents) {
    if (agent.info.id == name) return {&agent};
    if (agent.info.id.starts_with(name) || agent.info.hostname == name) found.push_back(&agent);
  }
  return found;
}

std::string DetailOf(const Agent& agent, const core::ClusterState& state) {
  switch (agent.state) {
    case AgentState::kDrained:
      return "it has been drained before: it may be stopped, and gets no ranks until its process is started anew";
    case AgentState::kDraining:
      return absl::StrCat("it is being drained already: ", agent.detail);
    default:
      break;
  }
  const auto ranks = std::count_if(state.ranks.begin(), state.ranks.end(),
                                   [&](const core::ClusterState::Rank& r) { return r.agent == agent.info.id; });
  if (ranks == 0) {
    const bool spare_left = std::any_of(state.agents.begin(), state.agents.end(), [&](const Agent& other) {
      return other.state == AgentState::kSpare && other.info.id != agent.info.id;
    });
    return spare_left ? "it has no ranks, and gets none"
                      : "it has no ranks, and gets none: no spare is left to replace a lost agent";
  }
  return absl::StrCat(ranks, ranks == 1 ? " rank moves" : " ranks move", " to another agent");
}

}  // namespace

Response DrainAnswer(std::string_view body, const Limits& limits, const core::ClusterState& state, std::string* drain) {
  drain->clear();
  json::object object;
  if (auto error = ParseObject(body, limits.json_depth, &object)) return ErrorResponse(*error);
  Fields fields(object, "");
  std::string name;
  if (!fields.String("agent", &name) && fields.ok()) {
    fields.Fail(ErrorKind::kMissingParameter, "agent", "the request needs 'agent': an id of /v1/cluster");
  }
  if (fields.ok() && name.empty()) fields.Fail(ErrorKind::kInvalidValue, "agent", "'agent' is empty");
  if (!fields.ok()) return ErrorResponse(*fields.error());
  const std::vector<const Agent*> found = Find(state, name);
  if (found.empty()) {
    return ErrorResponse(
        MakeError(ErrorKind::kNotFound, absl::StrCat("there is no agent '", name, "': ", Listed(state)), "agent"));
  }
  if (found.size() > 1) {
    return ErrorResponse(
        MakeError(ErrorKind::kInvalidValue,
                  absl::StrCat("'", name, "' may be any of ", found.size(), " agents: ", Listed(state)), "agent"));
  }
  const Agent& agent = *found[0];
  const bool drained = agent.state == AgentState::kDrained, draining = agent.state == AgentState::kDraining;
  if (!drained && !draining) *drain = agent.info.id;
  Response response;
  response.status = drained ? 200 : 202;
  response.body = json::serialize(json::object{{"agent", agent.info.id},
                                               {"hostname", agent.info.hostname},
                                               {"state", drained ? "drained" : "draining"},
                                               {"detail", DetailOf(agent, state)}});
  return response;
}

}  // namespace shoal::http
