// Tested by: tests/core/serving_test.cc
#include "coordinator/core/core.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/canary.h"
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
// Without any request, before a smaller group is given up for one as asked for: that one reads weights, and whoever
// comes meanwhile waits for them.
constexpr DurationNs kGrowIdle = 5 * kSecond;
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
        stragglers_(options_.tp, options_.pp),
        canary_(options_.canary_interval, options_.known_canaries) {}

  std::vector<Effect> OnEvent(const Event& event, TimeNs now) {
    SHOAL_CHECK(now >= now_);
    now_ = now;
    const bool was_ready = ready(), guarded = canary_.first() && serving_.canary_runs();
    std::visit([this](const auto& e) { On(e); }, event);
    const bool lost = was_ready && !ready();
    if (was_ready && ready()) Regroup();
    if (was_ready && !ready()) {
      outage_ends_ = now + std::max(kOutage, options_.replace_timeout);
      shrank_ = false;
      if (lost) ReportLoss();
      serving_.GroupLost(membership_.blamed(), membership_.loss(), now, fx_);
      if (lost && guarded) CanaryLost();
    }
    if (!was_ready && ready()) Ready();
    if (outage_ends_ != 0 && membership_.shrinking() && !std::exchange(shrank_, true)) {
      outage_ends_ = std::max(outage_ends_, now + kOutage);  // to load what fewer ranks need
    }
    // Nobody is turned away while what it waits for is coming.
    const bool loads = std::exchange(load_steps_, membership_.load_steps()) != membership_.load_steps();
    if (outage_ends_ != 0 && loads) outage_ends_ = std::max(outage_ends_, now + kOutage);
    if (membership_.phase() == Phase::kFailed) EndOutage();
    if (outage_ends_ != 0 && now >= outage_ends_) EndOutage();
    // Before a handover no plan is sent.
    if (!membership_.handover_ready()) {
      if (ready()) RunCanary();
      serving_.Pump(now, fx_);
    }
    membership_.SetCaution(canary_.first() && serving_.canary_runs() ? canary_.failures_in_row() + 1 : 0);
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
    FillCanary(&state);
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
    if (canary_.gives_up()) return absl::UnavailableError(CanaryText());
    if (ready() || outage_ends_ != 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("no group of ranks: ", membership_.detail()));
  }

  // A group that is there is given up for another one when nothing is lost by it. Nothing was detected: no report.
  void Regroup() {
    if (membership_.handover_ready() && serving_.settled()) membership_.HandOver(now_, fx_);
    if (!ready() || !serving_.idle() || draining_ || !membership_.may_grow()) {
      grow_at_ = 0;
    } else if (grow_at_ == 0) {
      grow_at_ = now_ + kGrowIdle;
    } else if (now_ >= grow_at_) {
      grow_at_ = now_ + kGrowIdle;  // where there are no agents for it
      membership_.Grow(now_, fx_);
    }
  }

  void Ready() {
    outage_ends_ = grow_at_ = 0;
    const Layout& layout = membership_.layout();
    stragglers_.Reset(layout.tp, layout.pp);
    canary_.GroupReady(now_);
    ServingGroup group;
    group.stamp = {membership_.epoch(), options_.incarnation, 0};
    group.limits = membership_.limits();
    group.stages = layout.pp;
    group.ranks = layout.ranks();
    group.sampling_rank = (layout.pp - 1) * layout.tp;
    group.checksum_interval = options_.checksum_interval;
    // Of a host's transport, no operation can be recorded; those of tensor ranks lie within a step.
    group.graphs = options_.graphs && (layout.tp == 1 || membership_.between_devices());
    group.reformed = membership_.reformed();
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
    if (membership_.phase() == Phase::kJoining) {
      report.next = absl::StrCat("epoch ", membership_.epoch(), " is formed at once");
    } else if (membership_.retry_at() > now_) {
      report.next = absl::StrCat("epoch ", membership_.epoch(), " is formed in ",
                                 (membership_.retry_at() - now_) / kMillisecond, " ms");
    } else {
      report.next = absl::StrCat(membership_.detail(), ", for ", (outage_ends_ - now_) / kSecond, " s at most");
    }
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

  // When it is due and nothing of clients is there to do; or before all of that, when ranks are not to be trusted.
  void RunCanary() {
    if (!serving_.idle()) canary_.Busy(now_);
    const bool may_run = canary_.first() || (serving_.idle() && !draining_);
    if (!may_run || !canary_.Due(now_) || serving_.canary_runs()) return;
    std::vector<int32_t> prompt = CanaryWatch::Prompt(membership_.limits());
    if (prompt.empty()) return canary_.NoRoom();
    serving_.StartCanary(std::move(prompt), CanaryWatch::kTokens, canary_.first());
  }

  void Judge(const CanaryAnswer& answer) {
    const std::string key =
        CanaryWatch::Key(membership_.numerics_id(), options_.revision, CanaryWatch::Prompt(membership_.limits()));
    const std::string wrong = canary_.Judge(key, answer, now_);
    if (auto learned = canary_.TakeLearned(); learned.has_value()) fx_.control.push_back(CanaryLearned{*learned});
    if (!wrong.empty()) Distrust(-1, wrong);
  }

  void Differ(const ChecksumWatch::Mismatch& mismatch) {
    if (serving_.canary_runs()) {
      canary_.Failed(mismatch.text);
    } else {
      canary_.Distrust(mismatch.text);
    }
    Distrust(mismatch.ranks.size() == 1 ? mismatch.ranks[0] : -1, mismatch.text);
  }

  void Distrust(int32_t rank, const std::string& why) {
    membership_.Distrusted(rank, why, canary_.failures_in_row(), now_, fx_);
    GiveUpIfSo();
  }

  // The group was lost while the canary ran first, and nothing else did: that is an answer too, where a rank may have
  // failed of it. Without this nobody would ever end, nor be told.
  void CanaryLost() {
    if (!membership_.blamed() && membership_.culprit().what != Detection::kDeadline) return;
    canary_.Failed(membership_.loss());
    GiveUpIfSo();
  }

  void GiveUpIfSo() {
    if (!canary_.gives_up()) return;
    fx_.Error(CanaryText());
    serving_.EndAll(absl::UnavailableError(CanaryText()), kRetryAfterOutageS, now_, fx_);
  }

  std::string CanaryText() const { return absl::StrCat("not ready, ", canary_.Summary()); }

  void FillCanary(ClusterState* state) const {
    state->canary_passes = canary_.passes();
    state->canary_failures = canary_.failures();
    state->proven = ready() && (canary_.passed() || serving_.proven());
    if (!canary_.gives_up() || state->phase == Phase::kFailed) return;
    state->detail = absl::StrCat(CanaryText(), state->detail.empty() ? "" : "; ", state->detail);
  }

  void EndOutage() {
    outage_ends_ = 0;
    const absl::Status error = absl::UnavailableError(absl::StrCat("no group of ranks: ", membership_.detail()));
    serving_.EndAll(error, kRetryAfterOutageS, now_, fx_);
  }

  void WantTimer() {
    TimeNs next = membership_.NextTimer();
    for (const TimeNs t : {outage_ends_, stall_watch_.NextTimer(), ready() ? grow_at_ : 0}) {
      if (t != 0 && (next == 0 || t < next)) next = t;
    }
    if (next == 0 || next == timer_) return;
    timer_ = next;
    fx_.control.push_back(SetTimer{next});
  }

  void On(const RequestArrived& e) { serving_.Arrive(e.request, Admission(), now_, fx_); }
  void On(const RequestCancelled& e) { serving_.Cancel(e.id, e.cause, e.choice, now_, fx_); }
  void On(const AgentRegistered& e) { membership_.Registered(e.info, now_, fx_); }
  void On(const AgentLost& e) { membership_.AgentLost(e.agent, e.reason, now_, fx_); }
  void On(const HeartbeatReceived& e) { membership_.Heartbeat(e.heartbeat, now_, fx_); }
  void On(const JoinAnswered& e) { membership_.JoinAnswered(e, now_, fx_); }
  void On(const LoadAdvanced& e) { membership_.LoadAdvanced(e, now_, fx_); }
  void On(const LoadFailed& e) { membership_.LoadFailed(e, now_, fx_); }
  void On(const PreloadAdvanced& e) { membership_.PreloadAdvanced(e, now_, fx_); }
  void On(const PreloadFailed& e) { membership_.PreloadFailed(e, now_, fx_); }
  void On(const DrainRequested& e) { membership_.Drain(e.agent, now_, fx_); }
  void On(const RankExited& e) { membership_.RankExited(e, now_, fx_); }
  void On(const StepAnswered& e) {
    const plan::Stamp& stamp = e.result.stamp;
    const bool ours = ready() && stamp.epoch == membership_.epoch() && stamp.incarnation == options_.incarnation &&
                      membership_.Owns(e.agent, e.result.rank);
    if (!ours) return serving_.Stale();
    std::string why;
    if (!serving_.Answered(e.result, &why, now_, fx_)) return membership_.Broken(e.result.rank, why, now_, fx_);
    if (const auto mismatch = serving_.TakeMismatch(); mismatch.has_value()) return Differ(*mismatch);
    if (serving_.plans_agreed() > 0) canary_.Agreed();
    if (serving_.TakeNotFinite()) canary_.Suspect(now_);
    NoteTimes(e.result);
    if (const auto answer = serving_.TakeCanary(); answer.has_value()) Judge(*answer);
  }
  void On(const ShutdownRequested&) {
    if (draining_) return;
    draining_ = true;
    fx_.Info("draining: what was accepted is finished, nothing else is let in");
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
  CanaryWatch canary_;
  bool draining_ = false;
  TimeNs now_ = 0;
  TimeNs timer_ = 0;     // last one asked for; 0: none is set
  bool shrank_ = false;  // since the group was lost, a group with fewer ranks has been tried
  uint64_t load_steps_ = 0;
  TimeNs grow_at_ = 0;      // a smaller group is given up for a whole one then, if still idle; 0: not
  TimeNs outage_ends_ = 0;  // a group was lost, and requests wait for its return until then; 0: no
  EffectList fx_;
};

Core::Core(CoreOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Core::~Core() = default;
std::vector<Effect> Core::OnEvent(const Event& event, TimeNs now) { return impl_->OnEvent(event, now); }
ClusterState Core::State(TimeNs now) const { return impl_->State(now); }
void Core::CheckInvariants() const { impl_->CheckInvariants(); }

}  // namespace shoal::core
