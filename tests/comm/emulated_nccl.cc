#include "tests/comm/emulated_nccl.h"

#include <cstring>
#include <deque>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::comm {

using cuda::emulated::Pace;
using cuda::emulated::Queue;
using cuda::emulated::WorkQueue;

namespace {

constexpr int kLooks = 2;  // that it takes until something has settled

absl::Status Diverged(const std::string& how) { return absl::InternalError("ranks have diverged: " + how); }

}  // namespace

// Operations run on the threads of the ranks' queues.
class NcclMeeting {
 public:
  explicit NcclMeeting(int size) : size_(size), gathers_of_(static_cast<size_t>(size), 0) {}
  int size() const { return size_; }

  void Join(int rank) SHOAL_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    SHOAL_CHECK(joined_.insert(rank).second);
  }
  bool complete() const SHOAL_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return static_cast<int>(joined_.size()) == size_;
  }
  void Abort(int rank) SHOAL_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    aborted_.insert(rank);
    changed_.NotifyAll();
  }

  absl::Status AllGather(int rank, const void* part, void* all, size_t bytes) SHOAL_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (aborted_.contains(rank)) return absl::OkStatus();
    const uint64_t number = gathers_of_[static_cast<size_t>(rank)]++;
    Gather& op = gathers_[number];
    if (op.parts.empty()) op = {bytes, std::vector<const void*>(static_cast<size_t>(size_)), {}, 0, 0};
    if (op.bytes != bytes) return Diverged(absl::StrCat("parts of ", op.bytes, " and ", bytes, " bytes"));
    op.parts[static_cast<size_t>(rank)] = part;
    if (++op.arrived == size_) {  // all others stand still
      for (const void* from : op.parts) {
        const auto* const begin = static_cast<const std::byte*>(from);
        op.all.insert(op.all.end(), begin, begin + bytes);
      }
      changed_.NotifyAll();
    }
    while (op.arrived < size_ && !aborted_.contains(rank)) changed_.Wait(mutex_);
    if (op.arrived < size_) {
      --op.arrived;  // it takes its memory with it
      return absl::OkStatus();
    }
    std::memcpy(all, op.all.data(), op.all.size());
    if (++op.left == size_) gathers_.erase(number);
    return absl::OkStatus();
  }

  absl::Status Exchange(int rank, const std::vector<NcclComm::Transfer>& transfers) SHOAL_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    std::vector<std::shared_ptr<Message>> sends;
    std::deque<NcclComm::Transfer> receives;
    for (const NcclComm::Transfer& t : transfers) {
      if (t.send == nullptr) {
        receives.push_back(t);
        continue;
      }
      sends.push_back(std::make_shared<Message>(Message{t.send, t.bytes}));
      messages_[{rank, t.peer}].push_back(sends.back());
    }
    changed_.NotifyAll();
    while (!aborted_.contains(rank)) {
      SHOAL_RETURN_IF_ERROR(ReceiveWhatIsThere(rank, receives));
      bool sent = true;
      for (const auto& message : sends) sent = sent && message->data == nullptr;
      if (sent && receives.empty()) return absl::OkStatus();
      changed_.Wait(mutex_);
    }
    for (auto& [ends, queue] : messages_) {  // it takes its memory with it
      if (ends.first == rank) queue.clear();
    }
    return absl::OkStatus();
  }

 private:
  struct Gather {
    size_t bytes = 0;
    std::vector<const void*> parts;
    std::vector<std::byte> all;
    int arrived = 0, left = 0;
  };
  struct Message {
    const void* data;  // null: received
    size_t bytes;
  };

  absl::Status ReceiveWhatIsThere(int rank, std::deque<NcclComm::Transfer>& receives) SHOAL_REQUIRES(mutex_) {
    for (auto it = receives.begin(); it != receives.end();) {
      auto& queue = messages_[{it->peer, rank}];
      if (queue.empty()) {
        ++it;
        continue;
      }
      Message& message = *queue.front();
      if (message.bytes != it->bytes) {
        return Diverged(absl::StrCat(message.bytes, " bytes were sent, ", it->bytes, " were expected"));
      }
      std::memcpy(it->receive, message.data, message.bytes);
      message.data = nullptr;
      queue.pop_front();
      it = receives.erase(it);
      changed_.NotifyAll();
    }
    return absl::OkStatus();
  }

  const int size_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::set<int> joined_ SHOAL_GUARDED_BY(mutex_), aborted_ SHOAL_GUARDED_BY(mutex_);
  std::vector<uint64_t> gathers_of_ SHOAL_GUARDED_BY(mutex_);  // begun, by rank
  std::map<uint64_t, Gather> gathers_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> messages_ SHOAL_GUARDED_BY(mutex_);
};

namespace {

class EmulatedComm final : public NcclComm {
 public:
  EmulatedComm(NcclWorld* world, std::shared_ptr<NcclMeeting> meeting, int rank)
      : world_(world), meeting_(std::move(meeting)), rank_(rank) {
    meeting_->Join(rank);
  }
  ~EmulatedComm() override { Abort(); }
  void Abort() { meeting_->Abort(rank_); }

  absl::StatusOr<bool> Settled() override {
    SHOAL_RETURN_IF_ERROR(world_->broken());
    if (!up_) {
      up_ = meeting_->complete() && looks_-- == 0;
      return up_;
    }
    if (begun_ == nullptr) return true;
    if (looks_-- > 0) return false;
    SHOAL_RETURN_IF_ERROR(queue_->Enqueue("nccl", std::exchange(begun_, nullptr)));
    return true;
  }

  absl::Status AllGather(const void* part, void* all, size_t bytes, void* stream) override {
    return Begin(stream, [m = meeting_, r = rank_, part, all, bytes] { return m->AllGather(r, part, all, bytes); });
  }
  absl::Status Exchange(std::span<const Transfer> transfers, void* stream) override {
    for (const Transfer& t : transfers) {
      SHOAL_CHECK(t.bytes > 0 && t.peer != rank_ && t.peer >= 0 && t.peer < meeting_->size());
      SHOAL_CHECK((t.send == nullptr) != (t.receive == nullptr));
    }
    const std::vector<Transfer> all(transfers.begin(), transfers.end());
    return Begin(stream, [m = meeting_, r = rank_, all] { return m->Exchange(r, all); });
  }

 private:
  absl::Status Begin(void* stream, Queue::Work work) {
    SHOAL_CHECK(up_ && begun_ == nullptr);  // it had not settled
    queue_ = static_cast<Queue*>(stream);
    begun_ = std::move(work);
    looks_ = kLooks;
    return absl::OkStatus();
  }

  NcclWorld* const world_;
  const std::shared_ptr<NcclMeeting> meeting_;
  const int rank_;
  bool up_ = false;
  int looks_ = kLooks;
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
  EmulatedQueue(NcclWorld* world, Queue* main, int places)
      : world_(world), main_(main), side_(std::make_unique<WorkQueue>(Pace::kEager)) {
    for (int i = 0; i <= places; ++i) events_.push_back(std::make_shared<Event>());
  }
  ~EmulatedQueue() override {
    for (const auto& event : events_) event->Leave();
    world_->Leave(std::move(side_));
  }

  void* native_stream() override { return static_cast<Queue*>(side_.get()); }
  absl::Status FollowMain() override {
    SHOAL_RETURN_IF_ERROR(Record(*main_, events_.back()));
    return Wait(*side_, events_.back());
  }
  absl::Status Remember(int place) override { return Record(*side_, events_[static_cast<size_t>(place)]); }
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

  NcclWorld* const world_;
  Queue* const main_;
  std::unique_ptr<WorkQueue> side_;
  std::vector<std::shared_ptr<Event>> events_;  // of the places; the last: of the main queue
};

class EmulatedNccl final : public NcclApi {
 public:
  EmulatedNccl(NcclWorld* world, std::string version) : world_(world), version_(std::move(version)) {}

  absl::StatusOr<std::string> Version() override { return version_; }
  absl::StatusOr<NcclId> MakeId() override { return world_->MakeId(); }

  absl::StatusOr<std::unique_ptr<NcclComm>> Join(const NcclId& id, const CommOptions& options) override {
    std::shared_ptr<NcclMeeting> meeting = world_->Meet(id, options.size);
    if (meeting == nullptr) return absl::InternalError("nobody has made this id");
    return std::make_unique<EmulatedComm>(world_, std::move(meeting), options.rank);
  }
  void Abort(std::span<NcclComm* const> comms) override {
    for (NcclComm* const comm : comms) static_cast<EmulatedComm*>(comm)->Abort();
  }
  absl::StatusOr<std::unique_ptr<NcclQueue>> MakeQueue(void* main, int places) override {
    return std::make_unique<EmulatedQueue>(world_, static_cast<Queue*>(main), places);
  }

 private:
  NcclWorld* const world_;
  const std::string version_;
};

}  // namespace

NcclWorld::NcclWorld() = default;
NcclWorld::~NcclWorld() = default;

NcclId NcclWorld::MakeId() {
  const MutexLock lock(mutex_);
  NcclId id = {};
  const uint64_t number = ++ids_;
  std::memcpy(id.data(), &number, sizeof number);
  meetings_[id] = nullptr;
  return id;
}

std::shared_ptr<NcclMeeting> NcclWorld::Meet(const NcclId& id, int size) {
  const MutexLock lock(mutex_);
  const auto it = meetings_.find(id);
  if (it == meetings_.end()) return nullptr;
  if (it->second == nullptr) it->second = std::make_shared<NcclMeeting>(size);
  return it->second->size() == size ? it->second : nullptr;
}

void NcclWorld::Break(const absl::Status& how) {
  const MutexLock lock(mutex_);
  broken_ = how;
}

absl::Status NcclWorld::broken() const {
  const MutexLock lock(mutex_);
  return broken_;
}

void NcclWorld::Leave(std::unique_ptr<WorkQueue> queue) {
  const MutexLock lock(mutex_);
  queues_.push_back(std::move(queue));
}

std::unique_ptr<NcclApi> MakeEmulatedNccl(NcclWorld* world, std::string version) {
  return std::make_unique<EmulatedNccl>(world, std::move(version));
}

}  // namespace shoal::comm
