// The thread that owns the core: events in, effects out. To HTTP it is the Engine.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "coordinator/core/core.h"
#include "coordinator/http/engine.h"
#include "coordinator/server/progress.h"

namespace shoal::server {

// Carries out one effect that concerns agents (SendJoin, SendLoad, SendPlan, SendAbort); returns at once.
using CarryFn = std::function<void(const core::Effect&)>;
// Makes what is served, when a group is ready for the first time or came back with another layout (numerics id or
// context).
using ModelFn = std::function<std::shared_ptr<const http::ServedModel>(const core::ClusterState&)>;

class CoreThread final : public http::Engine {
 public:
  CoreThread(core::CoreOptions options, ModelFn make_model);
  ~CoreThread() override;

  // Before Start events only queue up.
  void Start(CarryFn carry);
  // The thread ends; every request that has not ended gets `reason` as its terminal error, later ones likewise at once.
  // How many were running or queued, and had somebody who waited for them.
  int Stop(const absl::Status& reason);

  // Thread-safe, as are the methods of Engine.
  void Post(core::Event event);

  std::shared_ptr<const http::ServedModel> Model() const override;
  core::RequestId Submit(core::GenerateRequest request, std::function<void(http::GenerateUpdate)> on_update) override;
  void Cancel(core::RequestId id, core::CancelCause cause, int32_t choice = -1) override;
  void DrainAgent(const plan::AgentId& agent) override { Post(core::DrainRequested{agent}); }
  core::ClusterState Cluster() const override;
  bool Ready() const override;

 private:
  using UpdateFn = std::function<void(http::GenerateUpdate)>;
  struct Item {
    core::Event event;
    UpdateFn on_update;  // with RequestArrived
  };
  struct Snapshot {
    core::ClusterState state;
    TimeNs at = 0;
    TimeNs progressed = 0;  // when the group was last seen to get on, or nothing was there to do
  };

  void Run();
  void Push(Item item);
  static void End(const UpdateFn& sink, const absl::Status& reason);
  bool Wait(std::vector<Item>* batch);
  void Handle(Item item);
  void Apply(const core::Effect& effect);
  void Deliver();
  void Publish();

  const RealClock clock_;
  const ModelFn make_model_;
  std::atomic<core::RequestId> next_id_{1};

  // The thread's own.
  core::Core core_;
  CarryFn carry_;
  std::unordered_map<core::RequestId, UpdateFn> sinks_;
  std::vector<core::RequestId> updated_;  // in order; those of `updates_`
  std::unordered_map<core::RequestId, http::GenerateUpdate> updates_;
  TimeNs timer_ = 0;            // 0: none
  TimeNs publish_at_ = 0;       // 0: nothing new to show
  bool publish_first_ = false;  // a group may be up: what it says is shown after what it is
  TimeNs published_ = 0;
  ProgressWatch progress_;

  Mutex queue_mutex_;
  CondVar queue_changed_;
  std::vector<Item> queue_ SHOAL_GUARDED_BY(queue_mutex_);
  bool stop_ SHOAL_GUARDED_BY(queue_mutex_) = false;

  mutable Mutex shown_mutex_;
  Snapshot shown_ SHOAL_GUARDED_BY(shown_mutex_);
  std::shared_ptr<const http::ServedModel> model_ SHOAL_GUARDED_BY(shown_mutex_);

  std::thread thread_;
};

}  // namespace shoal::server
