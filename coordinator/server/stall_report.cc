#include "coordinator/server/stall_report.h"

#include <time.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <utility>

namespace shoal::server {
namespace {

namespace json = boost::json;

json::string ToJson(std::string_view text) { return json::string(text.data(), text.size()); }

json::value WaitingFor(const plan::RankStatus& status) {
  if (!status.waiting_for.has_value()) return nullptr;
  if (*status.waiting_for == plan::RankStatus::kAgent) return "agent";
  return *status.waiting_for;
}

json::object RankObject(const core::ClusterState& state, const core::ClusterState::Rank& rank) {
  const plan::RankStatus& s = rank.status;
  json::value age = nullptr;
  for (const auto& agent : state.agents) {
    if (agent.info.id == rank.agent) age = agent.heartbeat_age / kMillisecond;
  }
  return {{"rank", rank.rank},
          {"tp", rank.tp_index},
          {"pp", rank.stage},
          {"agent", rank.agent},
          {"hostname", rank.hostname},
          {"pid", s.pid},
          {"epoch", state.epoch},
          {"state", ToJson(plan::RankStateName(s.state))},
          {"step", s.step},
          {"answered", rank.answered},
          {"operation", s.operation},
          {"waiting_for", WaitingFor(s)},
          {"progress", s.progress},
          {"heartbeat_age_ms", std::move(age)},
          {"own_step_us", rank.own_time / kMicrosecond},
          {"straggles", rank.straggles}};
}

json::object Counters(const core::ClusterState& s) {
  return {{"running", s.running},
          {"waiting", s.waiting},
          {"kv_blocks", s.kv_blocks},
          {"kv_blocks_free", s.kv_blocks_free},
          {"steps", s.steps},
          {"answers", s.answers},
          {"stale_answers", s.stale[static_cast<size_t>(plan::StalePlace::kAnswer)]},
          {"preemptions", s.preemptions},
          {"prompt_tokens", s.prompt_tokens},
          {"output_tokens", s.output_tokens},
          {"groups_formed", s.groups_formed}};
}

}  // namespace

std::string Timestamp(int64_t unix_ms) {
  const time_t seconds = unix_ms / 1000;
  tm utc = {};
  gmtime_r(&seconds, &utc);
  char date[32], text[48];
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text, sizeof text, "%s.%03dZ", date, static_cast<int>(unix_ms % 1000));
  return text;
}

std::string ReportJson(const core::StallReport& report, int64_t unix_ms) {
  const core::ClusterState& state = report.state;
  json::array ranks, agents, plans, unanswered;
  for (const auto& rank : state.ranks) ranks.push_back(RankObject(state, rank));
  for (const auto& agent : state.agents) {
    agents.push_back(json::object{{"id", agent.info.id},
                                  {"hostname", agent.info.hostname},
                                  {"address", agent.info.address},
                                  {"pid", agent.info.pid},
                                  {"heartbeat_age_ms", agent.heartbeat_age / kMillisecond}});
  }
  for (const core::PlanNote& plan : report.plans) {
    plans.push_back(
        json::object{{"step", plan.step}, {"rows", plan.rows}, {"tokens", plan.tokens}, {"answered", plan.answered}});
    if (!plan.answered) unanswered.push_back(plan.step);
  }
  const core::Culprit& culprit = report.culprit;
  json::object who{{"rank", nullptr}, {"agent", nullptr}};
  if (culprit.rank >= 0) who["rank"] = culprit.rank;
  if (!culprit.agent.empty()) who["agent"] = culprit.agent;
  return json::serialize(json::object{{"time", Timestamp(unix_ms)},
                                      {"detection", ToJson(core::DetectionName(culprit.what))},
                                      {"reason", report.reason},
                                      {"next", report.next},
                                      {"culprit", std::move(who)},
                                      {"epoch", state.epoch},
                                      {"ranks", std::move(ranks)},
                                      {"agents", std::move(agents)},
                                      {"plans", std::move(plans)},
                                      {"unanswered", std::move(unanswered)},
                                      {"counters", Counters(state)}});
}

}  // namespace shoal::server
