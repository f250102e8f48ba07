// Tested by: tests/core/serving_test.cc
#include "coordinator/core/core.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/serving.h"
#include "coordinator/core/stall_watch.h"
#include "coordinator/core/stragglers.h"

namespace shoal::core {
namespace {

using Phase = ClusterState::Phase;

// How long requests wait for a lost group to come back.
constexpr DurationNs kOutage = 30 * kSecond;
constexpr int32_t kRetryAfterOutageS = 5;

}  // namespace

// Routes events to membership and serving, and tells serving when the group comes and goes.
class Core::Impl {
 public:
  explicit Impl(CoreOptions options)
      : options_(std::move(options)),
        membership_(options_),
        serving_(options_.max_queued_requests),
        stall_watch_(options_.plan_deadline),
        stragglers_(options_.tp, options_.pp) {}

  std::vector<Effect> OnEvent(const Event& event, TimeNs now) {
    SHOAL_CHECK(now >= now_);
    now_ = now;
    const bool was_ready = ready();
    std::visit([this](const auto& e) { On(e); }, event);
    if (was_ready && !ready()) {
      outage_ends_ = now + kOutage;
      ReportLoss();
      serving_.GroupLost(membership_.blamed(), membership_.loss(), now, fx_);
    }
    if (!was_ready && ready()) Ready();
    if (membership_.phase() == Phase::kFailed) EndOutage();
    if (outage_ends_ != 0 && now >= outage_ends_) EndOutage();
    serving_.Pump(now, fx_);
    stall_watch_.Expect(serving_.unanswered() > 0, now);
    WantTimer();
    std::vector<Effect> effects = std::exchange(fx_.control, {});
    effects.insert(effects.end(), std::make_move_iterator(fx_.client.begin()),
                   std::make_move_iterator(fx_.client.end()));
    fx_.client.clear();
    return effects;
  }

  ClusterState State(TimeNs now) const {
    ClusterState state{};
    state.phase = draining_ && membership_.phase() != Phase::kFailed ? Phase::kDraining : membership_.phase();
    state.detail = membership_.detail();
    membership_.Fill(&state, now);
    serving_.Fill(&state);
    FillTimes(&state);
    return state;
  }

  void CheckInvariants() const {
    membership_.CheckInvariants();
    serving_.CheckInvariants();
    SHOAL_CHECK(serving_.has_group() == ready());
    SHOAL_CHECK(ready() ? outage_ends_ == 0 : outage_ends_ != 0 || serving_.idle());
  }

 private:
  bool ready() const { return membership_.phase() == Phase::kReady; }

  // OK, or why nobody is let in. While a lost group comes back, requests queue.
  absl::Status Admission() const {
    if (draining_) return absl::UnavailableError("shutting down");
    if (ready() || outage_ends_ != 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("no group of ranks: ", membership_.detail()));
  }

  void Ready() {
    outage_ends_ = 0;
    stragglers_.Reset();
    ServingGroup group;
    group.stamp = {membership_.epoch(), options_.incarnation, 0};
    group.limits = membership_.limits();
    group.stages = options_.pp;
    group.ranks = membership_.ranks();
    group.sampling_rank = (options_.pp - 1) * options_.tp;
    group.agents = membership_.GroupAgents();
    serving_.GroupReady(std::move(group), membership_.kv_kept(), now_, fx_);
  }

  void FillTimes(ClusterState* state) const {
    for (ClusterState::Rank& rank : state->ranks) {
      rank.own_time = stragglers_.mean(rank.rank);
      rank.straggles = stragglers_.straggles(rank.rank);
    }
  }

  // While serving still knows what ran.
  void ReportLoss() {
    StallReport report;
    report.culprit = membership_.culprit();
    report.reason = membership_.loss();
    report.state = membership_.before_loss();
    serving_.Fill(&report.state);
    FillTimes(&report.state);
    report.plans = serving_.RecentPlans();
    const int32_t requests = report.state.running + report.state.waiting;
    const bool at_once = membership_.phase() == Phase::kJoining;
    report.next = at_once ? absl::StrCat("epoch ", membership_.epoch(), " is formed at once")
                          : absl::StrCat(membership_.detail(), ", for ", kOutage / kSecond, " s at most");
    absl::StrAppend(&report.next, "; requests that go on then: ", requests);
    fx_.control.push_back(core::Report{std::make_shared<const StallReport>(std::move(report))});
  }

  void NoteTimes(const plan::StepResult& result) {
    for (const Stragglers::Change& change : stragglers_.Note(result.rank, result.stamp.step, result.times.Own())) {
      const std::string times = absl::StrCat("its own part of a step takes ", change.own / kMicrosecond,
                                             " us, that of its peers ", change.peers / kMicrosecond, " us");
      if (!change.straggles) {
        fx_.Info(absl::StrCat("rank ", change.rank, " keeps up with its peers again: ", times));
        continue;
      }
      StallReport report;
      report.culprit = {Detection::kStraggler, change.rank, {}};
      report.reason = absl::StrCat("rank ", change.rank, " is slow: ", times, ", for ", Stragglers::kSteps, " steps");
      report.next = "it stays in the group, which is as slow as its slowest rank";
      report.state = State(now_);
      report.plans = serving_.RecentPlans();
      fx_.Warn(report.reason);
      fx_.control.push_back(core::Report{std::make_shared<const StallReport>(std::move(report))});
    }
  }

  void EndOutage() {
    outage_ends_ = 0;
    const absl::Status error = absl::UnavailableError(absl::StrCat("no group of ranks: ", membership_.detail()));
    serving_.EndAll(error, /*only_unstarted=*/false, kRetryAfterOutageS, now_, fx_);
  }

  void WantTimer() {
    TimeNs next = membership_.NextTimer();
    for (const TimeNs t : {outage_ends_, stall_watch_.NextTimer()}) {
      if (t != 0 && (next == 0 || t < next)) next = t;
    }
    if (next == 0 || next == timer_) return;
    timer_ = next;
    fx_.control.push_back(SetTimer{next});
  }

  void On(const RequestArrived& e) { serving_.Arrive(e.request, Admission(), now_, fx_); }
  void On(const RequestCancelled& e) { serving_.Cancel(e.id, e.cause, now_, fx_); }
  void On(const AgentRegistered& e) { membership_.Registered(e.info, now_, fx_); }
  void On(const AgentLost& e) { membership_.AgentLost(e.agent, e.reason, now_, fx_); }
  void On(const HeartbeatReceived& e) { membership_.Heartbeat(e.heartbeat, now_, fx_); }
  void On(const JoinAnswered& e) { membership_.JoinAnswered(e, now_, fx_); }
  void On(const LoadAdvanced& e) { membership_.LoadAdvanced(e, now_, fx_); }
  void On(const LoadFailed& e) { membership_.LoadFailed(e, now_, fx_); }
  void On(const RankExited& e) { membership_.RankExited(e, now_, fx_); }
  void On(const StepAnswered& e) {
    const plan::Stamp& stamp = e.result.stamp;
    const bool ours = ready() && stamp.epoch == membership_.epoch() && stamp.incarnation == options_.incarnation &&
                      membership_.Owns(e.agent, e.result.rank);
    if (!ours) return serving_.Stale();
    std::string why;
    if (!serving_.Answered(e.result, &why, now_, fx_)) return membership_.Broken(e.result.rank, why, now_, fx_);
    NoteTimes(e.result);
  }
  void On(const ShutdownRequested&) {
    if (draining_) return;
    draining_ = true;
    fx_.Info("draining: what runs is finished, nothing else is let in");
    serving_.EndAll(absl::UnavailableError("shutting down"), /*only_unstarted=*/true, kRetryAfterOutageS, now_, fx_);
  }
  void On(const TimerFired&) {
    timer_ = 0;
    membership_.Timer(now_, fx_);
    if (!ready() || now_ < stall_watch_.NextTimer()) return;
    const auto stall = stall_watch_.Tick(State(now_), serving_.last_sent(), now_);
    if (stall.has_value()) membership_.Stalled(stall->rank, stall->why, now_, fx_);
  }

  const CoreOptions options_;
  Membership membership_;
  Serving serving_;
  StallWatch stall_watch_;
  Stragglers stragglers_;
  bool draining_ = false;
  TimeNs now_ = 0;
  TimeNs timer_ = 0;        // last one asked for; 0: none is set
  TimeNs outage_ends_ = 0;  // a group was lost, and requests wait for its return until then; 0: no
  EffectList fx_;
};

Core::Core(CoreOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Core::~Core() = default;
std::vector<Effect> Core::OnEvent(const Event& event, TimeNs now) { return impl_->OnEvent(event, now); }
ClusterState Core::State(TimeNs now) const { return impl_->State(now); }
void Core::CheckInvariants() const { impl_->CheckInvariants(); }

}  // namespace shoal::core
