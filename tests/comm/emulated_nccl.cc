#include "tests/comm/emulated_nccl.h"

#include <random>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/emulated/work_queue.h"
#include "tests/comm/nccl_mesh.h"

namespace shoal::comm {

using cuda::emulated::Pace;
using cuda::emulated::Queue;
using cuda::emulated::WorkQueue;

namespace {

class EmulatedComm final : public NcclComm {
 public:
  EmulatedComm(NcclWorld* world, std::shared_ptr<NcclMesh> mesh, int looks)
      : world_(world), mesh_(std::move(mesh)), looks_(looks) {}
  ~EmulatedComm() override { Abort(); }
  void Abort() { mesh_->Abort(); }

  absl::StatusOr<bool> Settled() override {
    SHOAL_RETURN_IF_ERROR(world_->broken());
    if (!up_) {
      up_ = mesh_->Connect() && looks_-- <= 0;
      return up_;
    }
    if (begun_ == nullptr) return true;
    if (looks_-- > 0) return false;
    SHOAL_RETURN_IF_ERROR(queue_->Enqueue("nccl", std::exchange(begun_, nullptr)));
    return true;
  }

  absl::Status AllGather(const void* part, void* all, size_t bytes, void* stream) override {
    return Begin(stream, [mesh = mesh_, part, all, bytes] { return mesh->AllGather(part, all, bytes); });
  }
  absl::Status Exchange(std::span<const Transfer> transfers, void* stream) override {
    for (const Transfer& t : transfers) {
      SHOAL_CHECK(t.bytes > 0 && t.peer != mesh_->rank() && t.peer >= 0 && t.peer < mesh_->size());
      SHOAL_CHECK((t.send == nullptr) != (t.receive == nullptr));
    }
    const std::vector<Transfer> all(transfers.begin(), transfers.end());
    return Begin(stream, [mesh = mesh_, all] { return mesh->Exchange(all); });
  }

 private:
  absl::Status Begin(void* stream, Queue::Work work) {
    SHOAL_CHECK(up_ && begun_ == nullptr);  // it had not settled
    queue_ = static_cast<Queue*>(stream);
    begun_ = std::move(work);
    looks_ = kNcclLooks;
    return absl::OkStatus();
  }

  NcclWorld* const world_;
  const std::shared_ptr<NcclMesh> mesh_;
  bool up_ = false;
  int looks_;
  Queue* queue_ = nullptr;
  Queue::Work begun_;
};

// How far one queue has come, for another that waits for it.
class Event {
 public:
  uint64_t Next() { return ++last_; }  // of the thread that enqueues
  uint64_t last() const { return last_; }

  absl::Status Reach(uint64_t number) {
    const MutexLock lock(mutex_);
    reached_ = number;
    changed_.NotifyAll();
    return absl::OkStatus();
  }
  absl::Status Await(uint64_t number) {
    const MutexLock lock(mutex_);
    while (reached_ < number && !left_) changed_.Wait(mutex_);
    return absl::OkStatus();
  }
  void Leave() {
    const MutexLock lock(mutex_);
    left_ = true;
    changed_.NotifyAll();
  }

 private:
  uint64_t last_ = 0;
  Mutex mutex_;
  CondVar changed_;
  uint64_t reached_ SHOAL_GUARDED_BY(mutex_) = 0;
  bool left_ SHOAL_GUARDED_BY(mutex_) = false;
};

class EmulatedQueue final : public NcclQueue {
 public:
  EmulatedQueue(Queue* main, int places) : main_(main) {
    for (int i = 0; i <= places; ++i) events_.push_back(std::make_shared<Event>());
  }
  ~EmulatedQueue() override {
    for (const auto& event : events_) event->Leave();  // a main queue that has failed never comes there
  }

  void* native_stream() override { return static_cast<Queue*>(&side_); }
  absl::Status FollowMain() override {
    SHOAL_RETURN_IF_ERROR(Record(*main_, events_.back()));
    return Wait(side_, events_.back());
  }
  absl::Status Remember(int place) override { return Record(side_, events_[static_cast<size_t>(place)]); }
  absl::Status HoldMain(int place) override { return Wait(*main_, events_[static_cast<size_t>(place)]); }

 private:
  static absl::Status Record(Queue& queue, std::shared_ptr<Event> event) {
    const uint64_t number = event->Next();
    return queue.Enqueue("record", [event = std::move(event), number] { return event->Reach(number); });
  }
  static absl::Status Wait(Queue& queue, std::shared_ptr<Event> event) {
    const uint64_t number = event->last();
    return queue.Enqueue("wait", [event = std::move(event), number] { return event->Await(number); });
  }

  Queue* const main_;
  std::vector<std::shared_ptr<Event>> events_;  // of the places; the last: of the main queue
  WorkQueue side_{Pace::kEager};
};

class EmulatedNccl final : public NcclApi {
 public:
  EmulatedNccl(NcclWorld* world, std::string version, int looks_to_come_up)
      : world_(world), version_(std::move(version)), looks_to_come_up_(looks_to_come_up) {}

  absl::StatusOr<std::string> Version() override { return version_; }
  absl::StatusOr<NcclId> MakeId() override {
    std::random_device random;
    NcclId id = {};
    for (size_t i = 0; i < 16; ++i) id[i] = static_cast<std::byte>(random());
    return id;
  }

  absl::StatusOr<std::unique_ptr<NcclComm>> Join(const NcclId& id, const CommOptions& options) override {
    return std::make_unique<EmulatedComm>(world_, std::make_shared<NcclMesh>(id, options.size, options.rank),
                                          looks_to_come_up_);
  }
  void Abort(std::span<NcclComm* const> comms) override {
    for (NcclComm* const comm : comms) static_cast<EmulatedComm*>(comm)->Abort();
  }
  absl::StatusOr<std::unique_ptr<NcclQueue>> MakeQueue(void* main, int places) override {
    return std::make_unique<EmulatedQueue>(static_cast<Queue*>(main), places);
  }

 private:
  NcclWorld* const world_;
  const std::string version_;
  const int looks_to_come_up_;
};

}  // namespace

void NcclWorld::Break(const absl::Status& how) {
  const MutexLock lock(mutex_);
  broken_ = how;
}

absl::Status NcclWorld::broken() const {
  const MutexLock lock(mutex_);
  return broken_;
}

std::unique_ptr<NcclApi> MakeEmulatedNccl(NcclWorld* world, std::string version, int looks_to_come_up) {
  return std::make_unique<EmulatedNccl>(world, std::move(version), looks_to_come_up);
}

}  // namespace shoal::comm
