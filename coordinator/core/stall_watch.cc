// Tested by: tests/core/stall_test.cc
#include "coordinator/core/stall_watch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shoal::core {
namespace {

constexpr DurationNs kInterval = 500 * kMillisecond;  // heartbeats come about as often
constexpr int32_t kBusyTimes = 6;

using Rank = ClusterState::Rank;

bool Busy(const Rank& rank) {
  return rank.status.state == plan::RankState::kRunning && !rank.status.waiting_for.has_value();
}

std::string Doing(const Rank& rank) {
  return absl::StrCat("rank ", rank.rank, " on ", rank.hostname, " (", rank.status.operation, ", step ",
                      rank.status.step, " done)");
}

// The ranks of a circle in which each waits for the next; empty: there is none.
std::vector<int32_t> Circle(const std::vector<Rank>& ranks) {
  const auto count = static_cast<int32_t>(ranks.size());
  std::vector<int32_t> path;
  for (int32_t at = count > 0 ? 0 : -1; at >= 0 && at < count;) {
    const auto seen = std::find(path.begin(), path.end(), at);
    if (seen != path.end()) return {seen, path.end()};
    path.push_back(at);
    at = ranks[at].status.waiting_for.value_or(-1);
  }
  return {};
}

// Those that have something to do and wait for no rank.
std::vector<const Rank*> Idlers(const std::vector<Rank>& ranks, uint64_t last_sent) {
  std::vector<const Rank*> found;
  for (const Rank& rank : ranks) {
    const bool waits = rank.status.waiting_for.has_value() && rank.status.waiting_for != plan::RankStatus::kAgent;
    if (!waits && (Busy(rank) || rank.status.step < last_sent)) found.push_back(&rank);
  }
  return found;
}

}  // namespace

void StallWatch::Expect(bool unanswered, TimeNs now) {
  if (unanswered == (next_tick_ != 0)) return;
  last_tick_ = now;
  next_tick_ = unanswered ? now + kInterval : 0;
  stood_ = 0;
}

std::optional<StallWatch::Stall> StallWatch::Tick(const ClusterState& state, uint64_t last_sent, TimeNs now) {
  if (next_tick_ == 0 || now < next_tick_) return std::nullopt;
  const DurationNs counted = std::min(now - std::exchange(last_tick_, now), kInterval);
  next_tick_ = now + kInterval;
  uint64_t seen = state.answers;
  for (const Rank& rank : state.ranks) seen += rank.status.step + rank.status.progress;
  if (std::exchange(seen_, seen) != seen) {
    stood_ = 0;
    return std::nullopt;
  }
  stood_ += counted;
  const bool busy = std::any_of(state.ranks.begin(), state.ranks.end(), Busy);
  if (stood_ < (busy ? kBusyTimes * deadline_ : deadline_)) return std::nullopt;

  Stall stall;
  stall.why = absl::StrCat("no rank has got on for ", stood_ / kSecond, " s, step ", last_sent, " was sent: ");
  const std::vector<const Rank*> idlers = Idlers(state.ranks, last_sent);
  const std::vector<int32_t> circle = Circle(state.ranks);
  if (!idlers.empty()) {
    if (idlers.size() == 1) stall.rank = idlers.front()->rank;
    for (const Rank* rank : idlers) absl::StrAppend(&stall.why, Doing(*rank), ", ");
    absl::StrAppend(&stall.why, idlers.size() == 1 ? "waits for no rank" : "wait for no rank");
  } else if (!circle.empty()) {
    absl::StrAppend(&stall.why, "ranks wait for each other: ");
    for (const int32_t rank : circle) absl::StrAppend(&stall.why, Doing(state.ranks[rank]), " for ");
    absl::StrAppend(&stall.why, "rank ", circle.front());
  } else {
    absl::StrAppend(&stall.why, "every rank has executed it, and an answer is missing");
  }
  return stall;
}

}  // namespace shoal::core
