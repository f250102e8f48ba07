// Tested by: tests/sim/mutation_test.cc
#include "tools/sim/oracle.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shoal::sim {
namespace {

using core::FinishReason;
using Phase = core::ClusterState::Phase;

// How long requests wait for a lost group, less what sampling blurs.
constexpr DurationNs kOutage = 30 * kSecond - 3 * kSampleEvery;
// Longest way back once nothing is wrong any more: an attempt under way must fail first (silence, 3 s), the next is up
// to 5 s away, and weights are read.
constexpr DurationNs kWayBack = 20 * kSecond;

class Judgement {
 public:
  Judgement(const Scenario& s, const VirtualCluster& c, const History& h) : s_(s), c_(c), h_(h) {}

  std::vector<std::string> Run() {
    for (const core::GenerateRequest& r : h_.requests) CheckAnswer(r);
    CheckWeights();
    CheckGroups();
    CheckEnd();
    out_.insert(out_.end(), c_.problems().begin(), c_.problems().end());
    return std::move(out_);
  }

 private:
  template <typename... Parts>
  void Wrong(const Parts&... parts) {
    out_.push_back(absl::StrCat(parts...));
  }

  void CheckAnswer(const core::GenerateRequest& r) {
    const Answer& a = c_.answer(r.id);
    const std::string who = absl::StrCat("request ", r.id);
    if (a.refused) return;
    if (a.finishes + (a.cut ? 1 : 0) != 1) return Wrong(who, " ended ", a.finishes, " times, cut ", a.cut);
    const bool wrong = std::any_of(h_.wrong.begin(), h_.wrong.end(), [&](const auto& w) {
      return a.submitted_at <= w.second && a.finished_at >= w.first;
    });
    if (wrong) return;  // nobody can know, but for the canary
    for (int32_t choice = 0; choice < r.n; ++choice) {
      if (!BeginsAsAlone(r, a, choice)) return Wrong(who, " has other tokens than alone, choice ", choice);
    }
    if (a.cut) return;
    if (a.finish.reason == FinishReason::kCancelled) {
      if (!h_.cancelled.contains(r.id)) Wrong(who, " was cancelled by nobody");
      return;
    }
    if (a.finish.reason == FinishReason::kError) return CheckError(r, a, who);
    if (static_cast<int32_t>(a.ended.size()) != r.n - 1) Wrong(who, " ended after ", a.ended.size(), " choices");
    if (a.prompt_logprobs != LonePrompt(r)) Wrong(who, " has other log-probabilities of its prompt than alone");
    for (int32_t choice = 0; choice < r.n; ++choice) CheckChoice(r, a, choice);
  }

  bool BeginsAsAlone(const core::GenerateRequest& r, const Answer& a, int32_t choice) const {
    FinishReason reason;
    const std::vector<int32_t> alone = LoneRun(r, &reason, choice), &tokens = a.TokensOf(choice);
    return tokens.size() <= alone.size() && std::equal(tokens.begin(), tokens.end(), alone.begin());
  }

  // Of a request that ended well.
  void CheckChoice(const core::GenerateRequest& r, const Answer& a, int32_t choice) {
    FinishReason reason;
    const std::vector<int32_t> alone = LoneRun(r, &reason, choice), &tokens = a.TokensOf(choice);
    const auto ended = a.ended.find(choice);
    const FinishReason was = ended != a.ended.end() ? ended->second : a.finish.reason;
    std::vector<plan::TokenLogprobs> logprobs = LoneLogprobs(r, choice);
    if (logprobs.size() > tokens.size()) logprobs.resize(tokens.size());
    const auto told = a.logprobs.find(choice);
    if (told != a.logprobs.end() ? told->second != logprobs : !logprobs.empty()) {
      Wrong("request ", r.id, " has other log-probabilities than alone, choice ", choice);
    }
    const auto stopped = choice == 0 ? h_.stopped.find(r.id) : h_.stopped.end();
    if (stopped != h_.stopped.end() && was == FinishReason::kStop && tokens.size() >= stopped->second) return;
    if (tokens.size() != alone.size() || was != reason) {
      Wrong("request ", r.id, " ended after ", tokens.size(), " of ", alone.size(), " tokens, reason ",
            static_cast<int>(was), ", choice ", choice);
    }
  }

  void CheckError(const core::GenerateRequest& r, const Answer& a, const std::string& who) {
    bool right = false;
    switch (a.finish.error.code()) {
      case absl::StatusCode::kResourceExhausted:
        right = s_.options.max_queued_requests < 10 && a.tokens.empty() && a.finish.retry_after_s > 0;
        break;
      case absl::StatusCode::kInternal:
        right = r.prompt[0] == s_.not_finite && a.tokens.empty() && a.others.empty();
        break;
      case absl::StatusCode::kFailedPrecondition:
        right = (s_.deadly >= 0 && r.prompt[0] == s_.deadly) || MayLookLikePoison();
        break;
      case absl::StatusCode::kUnavailable:
        right = a.finish.retry_after_s > 0 && (NobodyThere(a.finished_at) || Distrusted(a));
        break;
      default:
        break;
    }
    if (!right) Wrong(who, " failed at ", a.finished_at / kMillisecond, " ms: ", a.finish.error.ToString());
  }

  // There were enough losses for which a step may be blamed, and no request was, so that one which was there each time
  // counts as poison: three, or one that comes while a deadly request has made others suspects.
  bool MayLookLikePoison() const {
    const auto stalls = std::count_if(c_.reports().begin(), c_.reports().end(), [](const auto& report) {
      return report->culprit.what == core::Detection::kDeadline && report->culprit.rank >= 0;
    });
    return h_.blamed + stalls >= (s_.deadly >= 0 ? 1 : 3);
  }

  // Canaries or plans had shown it in a row, and since ranks were wrong there was hardly a group in which one could
  // pass.
  bool Distrusted(const Answer& a) const {
    const absl::string_view said = a.finish.error.message();
    if (!absl::StrContains(said, "canaries in a row failed") && !absl::StrContains(said, "in a row ranks disagreed")) {
      return false;
    }
    return std::any_of(h_.distrusts.begin(), h_.distrusts.end(), [&](const auto& d) {
      const auto ready = std::count_if(h_.samples.begin(), h_.samples.end(), [&](const History::Sample& s) {
        return s.phase == Phase::kReady && s.at > d.second && s.at < a.finished_at;
      });
      return d.first <= a.finished_at && ready * kSampleEvery <= kWayBack;
    });
  }

  // At `at` there was no group, had been none for as long as requests wait, and there was a reason for it.
  bool NobodyThere(TimeNs at) const {
    if (h_.shutdown_at != 0 && at >= h_.shutdown_at) return true;
    TimeNs since = at - kOutage;
    for (const TimeNs restart : h_.restarts) {
      if (restart <= at) since = std::max(since, restart);
    }
    for (const History::Sample& sample : h_.samples) {
      const bool near = sample.at >= at - 2 * kSampleEvery && sample.at <= at + 2 * kSampleEvery;
      if (near && sample.phase == Phase::kFailed) return true;
    }
    for (const History::Sample& sample : h_.samples) {
      if (sample.at > since && sample.at < at && sample.up && sample.phase == Phase::kReady) return false;
    }
    return std::any_of(h_.troubles.begin(), h_.troubles.end(),
                       [&](const auto& trouble) { return trouble.first <= at && trouble.second >= at - kWayBack; });
  }

  // Weights are read only where they have been lost, or where those that have them compute wrongly.
  void CheckWeights() {
    for (const VirtualCluster::Read& read : c_.reads()) {
      const bool distrusted = std::any_of(h_.distrusts.begin(), h_.distrusts.end(), [&](const auto& d) {
        return d.first <= read.at && read.at <= d.second + kWayBack;
      });
      if (read.holder.empty() || distrusted) continue;
      Wrong("agent ", read.agent, " read the weights of rank ", read.rank, " at ", read.at / kMillisecond,
            " ms, which ", read.holder, " has");
    }
  }

  void CheckGroups() {
    const core::ClusterState state = c_.state();
    const auto only = [&](std::initializer_list<FaultKind> kinds) {
      return s_.deadly < 0 && std::all_of(h_.kinds.begin(), h_.kinds.end(), [&](FaultKind k) {
               return std::find(kinds.begin(), kinds.end(), k) != kinds.end();
             });
    };
    const auto handovers =
        static_cast<uint64_t>(std::count_if(c_.log().begin(), c_.log().end(), [](const core::LogLine& line) {
          return line.text == "draining: the group is formed on the replacement";
        }));
    if (!h_.false_alarm_possible && state.groups_formed > 1 + handovers) {
      Wrong("false alarm: ", state.groups_formed, " groups were formed, and nothing had happened to any");
    }
    if (s_.small_cache || state.preemptions > 0) return;
    if (only({FaultKind::kKillRank, FaultKind::kStopRank, FaultKind::kCrashRank, FaultKind::kErrorAnswer,
              FaultKind::kGhosts, FaultKind::kDisconnect, FaultKind::kSlowNetwork, FaultKind::kRepeatAnswers,
              FaultKind::kShutdown}) &&
        state.recomputed_tokens > 0) {
      Wrong(state.recomputed_tokens, " tokens were computed again, and only ranks were lost");
    }
  }

  void CheckEnd() {
    const core::ClusterState state = c_.state();
    if (state.running + state.waiting != 0) Wrong(state.running, " running and ", state.waiting, " waiting at the end");
    if (state.kv_blocks_free != state.kv_blocks && !state.canary_runs) {
      Wrong(state.kv_blocks - state.kv_blocks_free, " KV blocks are held at the end");
    }
    if (c_.max_unanswered() > 2) Wrong("a sequence was in ", c_.max_unanswered(), " unanswered plans");
    if (c_.max_in_flight() > s_.options.pp + 1) Wrong(c_.max_in_flight(), " plans were in flight");
  }

  const Scenario& s_;
  const VirtualCluster& c_;
  const History& h_;
  std::vector<std::string> out_;
};

}  // namespace

std::vector<std::string> Judge(const Scenario& scenario, const VirtualCluster& cluster, const History& history) {
  return Judgement(scenario, cluster, history).Run();
}

}  // namespace shoal::sim
