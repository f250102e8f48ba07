// Tested by: tests/core/serving_test.cc
#include "coordinator/core/core.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/serving.h"

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
      : options_(std::move(options)), membership_(options_), serving_(options_.max_queued_requests) {}

  std::vector<Effect> OnEvent(const Event& event, TimeNs now) {
    SHOAL_CHECK(now >= now_);
    now_ = now;
    const bool was_ready = ready();
    std::visit([this](const auto& e) { On(e); }, event);
    if (was_ready && ready()) Regroup();
    if (was_ready && !ready()) {
      outage_ends_ = now + std::max(kOutage, options_.replace_timeout);
      shrank_ = false;
      serving_.GroupLost(membership_.blamed(), membership_.loss(), now, fx_);
    }
    if (!was_ready && ready()) Ready();
    if (outage_ends_ != 0 && membership_.shrinking() && !std::exchange(shrank_, true)) {
      outage_ends_ = std::max(outage_ends_, now + kOutage);  // to load what fewer ranks need
    }
    if (membership_.phase() == Phase::kFailed) EndOutage();
    if (outage_ends_ != 0 && now >= outage_ends_) EndOutage();
    if (!membership_.handover_ready()) serving_.Pump(now, fx_);
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

  // A group that is there is given up for another one when nothing is lost by it.
  void Regroup() {
    if (membership_.handover_ready() && serving_.settled()) membership_.HandOver(now_, fx_);
    if (ready() && serving_.idle() && !draining_) membership_.Grow(now_, fx_);
  }

  void Ready() {
    outage_ends_ = 0;
    const Layout& layout = membership_.layout();
    ServingGroup group;
    group.stamp = {membership_.epoch(), options_.incarnation, 0};
    group.limits = membership_.limits();
    group.stages = layout.pp;
    group.ranks = layout.ranks();
    group.sampling_rank = (layout.pp - 1) * layout.tp;
    group.reformed = membership_.reformed();
    group.agents = membership_.GroupAgents();
    serving_.GroupReady(std::move(group), membership_.kv_kept(), now_, fx_);
  }

  void EndOutage() {
    outage_ends_ = 0;
    const absl::Status error = absl::UnavailableError(absl::StrCat("no group of ranks: ", membership_.detail()));
    serving_.EndAll(error, kRetryAfterOutageS, now_, fx_);
  }

  void WantTimer() {
    TimeNs next = membership_.NextTimer();
    if (outage_ends_ != 0 && (next == 0 || outage_ends_ < next)) next = outage_ends_;
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
    if (!serving_.Answered(e.result, &why, now_, fx_)) membership_.Broken(why, now_, fx_);
  }
  void On(const ShutdownRequested&) {
    if (draining_) return;
    draining_ = true;
    fx_.Info("draining: what was accepted is finished, nothing else is let in");
  }
  void On(const TimerFired&) {
    timer_ = 0;
    membership_.Timer(now_, fx_);
  }

  const CoreOptions options_;
  Membership membership_;
  Serving serving_;
  bool draining_ = false;
  TimeNs now_ = 0;
  TimeNs timer_ = 0;        // last one asked for; 0: none is set
  bool shrank_ = false;     // since the group was lost, a group with fewer ranks has been tried
  TimeNs outage_ends_ = 0;  // a group was lost, and requests wait for its return until then; 0: no
  EffectList fx_;
};

Core::Core(CoreOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Core::~Core() = default;
std::vector<Effect> Core::OnEvent(const Event& event, TimeNs now) { return impl_->OnEvent(event, now); }
ClusterState Core::State(TimeNs now) const { return impl_->State(now); }
void Core::CheckInvariants() const { impl_->CheckInvariants(); }

}  // namespace shoal::core
