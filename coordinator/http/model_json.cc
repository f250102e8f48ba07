// Tested by: tests/http/routes_test.cc
#include "coordinator/http/model_json.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace shoal::http {
namespace {

namespace json = boost::json;

json::object ModelObject(const ServedModel& model, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "shoal"},
          {"root", model.root},
          {"parent", nullptr},
          {"max_model_len", model.max_model_len}};
}

json::object AgentObject(const core::ClusterState::Agent& agent) {
  json::array slots;
  const std::string_view state = AgentStateName(agent.state);
  for (const auto& slot : agent.info.slots) {
    slots.push_back(json::object{{"kind", slot.kind}, {"threads", slot.threads}, {"memory_bytes", slot.memory_bytes}});
  }
  return {{"id", agent.info.id},
          {"address", agent.info.address},
          {"hostname", agent.info.hostname},
          {"pid", agent.info.pid},
          {"build_id", agent.info.build_id},
          {"slots", std::move(slots)},
          {"heartbeat_age_ms", agent.heartbeat_age / kMillisecond},
          {"state", json::string_view(state.data(), state.size())},
          {"detail", agent.detail}};
}

// What was asked for, while there are ranks for less; else null.
json::value ReformedFrom(const core::ClusterState& state) {
  if (state.layout == state.asked) return nullptr;
  return json::object{{"tensor_parallel_size", state.asked.tp}, {"pipeline_parallel_size", state.asked.pp}};
}

json::object RankObject(const core::ClusterState::Rank& rank) {
  json::object sent;
  for (const auto& [transport, bytes] : rank.status.comm_bytes) sent[transport] = bytes;
  const std::string_view state = plan::RankStateName(rank.status.state);
  json::value waiting_for = nullptr;
  if (rank.status.waiting_for.has_value()) waiting_for = *rank.status.waiting_for;
  return {{"rank", rank.rank},
          {"tp", rank.tp_index},
          {"pp", rank.stage},
          {"agent", rank.agent},
          {"hostname", rank.hostname},
          {"pid", rank.status.pid},
          {"state", json::string_view(state.data(), state.size())},
          {"step", rank.status.step},
          {"progress", rank.status.progress},
          {"operation", rank.status.operation},
          {"waiting_for", std::move(waiting_for)},
          {"own_step_us", rank.own_time / kMicrosecond},
          {"straggles", rank.straggles},
          {"resident_bytes", rank.status.resident_bytes},
          {"decode_steps", rank.status.decode_steps},
          {"decode_steps_planned", rank.status.decode_steps_planned},
          {"comm_bytes", std::move(sent)}};
}

json::object Mismatches(const core::ClusterState& state) {
  json::object by_rank;
  for (const auto& [rank, count] : state.mismatches) by_rank[std::to_string(rank)] = count;
  return by_rank;
}

json::object Stale(const plan::StaleCounts& counts) {
  json::object by_place;
  for (size_t place = 0; place < plan::kStalePlaces; ++place) {
    const std::string_view name = plan::StalePlaceName(static_cast<plan::StalePlace>(place));
    by_place[json::string_view(name.data(), name.size())] = counts[place];
  }
  return by_place;
}

}  // namespace

std::string ModelJson(const ServedModel& model, const std::string& name) {
  return json::serialize(ModelObject(model, name));
}

std::string ModelListJson(const ServedModel& model) {
  json::array data;
  for (const std::string& name : model.names) data.push_back(ModelObject(model, name));
  return json::serialize(json::object{{"object", "list"}, {"data", std::move(data)}});
}

std::string_view AgentStateName(core::ClusterState::AgentState state) {
  using State = core::ClusterState::AgentState;
  switch (state) {
    case State::kServing:
      return "serving";
    case State::kSpare:
      return "spare";
    case State::kSilent:
      return "silent";
    case State::kDraining:
      return "draining";
    case State::kDrained:
      return "drained";
  }
  return "unknown";
}

std::string_view PhaseName(core::ClusterState::Phase phase) {
  switch (phase) {
    case core::ClusterState::Phase::kWaitingForAgents:
      return "waiting_for_agents";
    case core::ClusterState::Phase::kJoining:
      return "joining";
    case core::ClusterState::Phase::kLoading:
      return "loading";
    case core::ClusterState::Phase::kReady:
      return "ready";
    case core::ClusterState::Phase::kDraining:
      return "draining";
    case core::ClusterState::Phase::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string ClusterJson(const core::ClusterState& state, const plan::StaleCounts& stale) {
  json::array agents, ranks;
  int32_t tp = 0, pp = 0;
  for (const auto& agent : state.agents) agents.push_back(AgentObject(agent));
  for (const auto& rank : state.ranks) {
    ranks.push_back(RankObject(rank));
    tp = std::max(tp, rank.tp_index + 1);
    pp = std::max(pp, rank.stage + 1);
  }
  const std::string_view phase = PhaseName(state.phase);
  return json::serialize(json::object{{"phase", json::string_view(phase.data(), phase.size())},
                                      {"detail", state.detail},
                                      {"epoch", state.epoch},
                                      {"numerics_id", state.numerics_id},
                                      {"transport", state.transport},
                                      {"tensor_parallel_size", tp},
                                      {"pipeline_parallel_size", pp},
                                      {"reformed_from", ReformedFrom(state)},
                                      {"agents", std::move(agents)},
                                      {"ranks", std::move(ranks)},
                                      {"load_bytes_done", state.load_bytes_done},
                                      {"load_bytes_total", state.load_bytes_total},
                                      {"load_bytes_read", state.load_bytes_read},
                                      {"running", state.running},
                                      {"waiting", state.waiting},
                                      {"kv_blocks", state.kv_blocks},
                                      {"kv_blocks_free", state.kv_blocks_free},
                                      {"block_size", state.block_size},
                                      {"max_model_len", state.max_model_len},
                                      {"steps", state.steps},
                                      {"preemptions", state.preemptions},
                                      {"resumed", state.resumed},
                                      {"recomputed_tokens", state.recomputed_tokens},
                                      {"prompt_tokens", state.prompt_tokens},
                                      {"output_tokens", state.output_tokens},
                                      {"groups_formed", state.groups_formed},
                                      {"reforms", state.reforms},
                                      {"stale", Stale(stale)},
                                      {"poisoned", state.poisoned},
                                      {"proven", state.proven},
                                      {"canary_passes", state.canary_passes},
                                      {"canary_failures", state.canary_failures},
                                      {"checksums_agreed", state.checksums_agreed},
                                      {"hidden_state_mismatches", Mismatches(state)}});
}

}  // namespace shoal::http
