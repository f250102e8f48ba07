// Tested by: tests/agent/agent_test.cc
#include "worker/agent/ranks.h"

#include <algorithm>
#include <new>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "worker/agent/host.h"
#include "worker/graph/operation.h"
#include "worker/rank/shape.h"

namespace shoal::agent {
namespace {

// The largest plan (half of the ring) starts sequences of some 2 million tokens together.
constexpr size_t kPlanRingBytes = 16 << 20;
// Attaching takes milliseconds; this covers a machine that is starting dozens of ranks on few cores.
constexpr DurationNs kReadyTimeout = 60 * kSecond;
// An aborted rank returns from its waits at once; one that does not is inside a long operation, or stopped.
constexpr DurationNs kEndGrace = 250 * kMillisecond;
constexpr uint32_t kMaxPeer = 1 << 20;  // a rank that spoils its page must not spoil a heartbeat

}  // namespace

Ranks::Ranks(std::string binary, std::string log_directory, uint64_t epoch, Outbox* outbox, const Counters& counters)
    : binary_(std::move(binary)),
      log_directory_(std::move(log_directory)),
      epoch_(epoch),
      outbox_(outbox),
      counters_(counters) {}

Ranks::~Ranks() { End(); }

absl::Status Ranks::MakeRing() {
  SHOAL_ASSIGN_OR_RETURN(device::SharedMemory memory,
                         device::SharedMemory::Create("shoal-plans", plan::RingBytes(kPlanRingBytes)));
  SHOAL_ASSIGN_OR_RETURN(plan::RingWriter ring, plan::RingWriter::Create({memory.data(), memory.size()}));
  MutexLock lock(ring_mutex_);
  ring_memory_ = std::move(memory);
  ring_ = std::make_unique<plan::RingWriter>(ring);
  return absl::OkStatus();
}

absl::Status Ranks::Start(const std::vector<RankSpec>& specs) {
  SHOAL_RETURN_IF_ERROR(MakeRing());
  for (const RankSpec& spec : specs) SHOAL_RETURN_IF_ERROR(StartOne(spec));
  return absl::OkStatus();
}

absl::Status Ranks::StartOne(const RankSpec& spec) {
  auto slot = std::make_unique<Slot>();
  slot->rank = spec.setup.rank;
  const auto result_bytes = static_cast<size_t>(rank::ResultRingCapacity(spec.setup.limits));
  SHOAL_ASSIGN_OR_RETURN(slot->control, device::SharedMemory::Create(absl::StrCat("shoal-control-r", slot->rank),
                                                                     sizeof(rank::ControlPage)));
  SHOAL_ASSIGN_OR_RETURN(slot->results, device::SharedMemory::Create(absl::StrCat("shoal-results-r", slot->rank),
                                                                     plan::RingBytes(result_bytes)));
  slot->page = new (slot->control.data()) rank::ControlPage;
  int ring_fd = -1;
  {
    MutexLock lock(ring_mutex_);
    ring_fd = ring_memory_.fd();
    SHOAL_ASSIGN_OR_RETURN(slot->reader, ring_->AttachReader());
    const plan::Stamp stamp{spec.setup.epoch, spec.setup.coordinator, 0};
    SHOAL_RETURN_IF_ERROR(ring_->Append(plan::RecordKind::kSetup, stamp, plan::EncodeSetup(spec.setup)));
  }
  SpawnSpec spawn;
  spawn.binary = binary_;
  spawn.reader = slot->reader;
  spawn.fds = {slot->control.fd(), ring_fd, slot->results.fd(), spec.weights_fd, spec.kv_fd, spec.channels_fd};
  spawn.environment = spec.environment;
  if (!log_directory_.empty()) spawn.log_path = absl::StrCat(log_directory_, "/rank-", slot->rank, ".log");
  Slot* const raw = slot.get();
  absl::StatusOr<std::unique_ptr<RankProcess>> process = RankProcess::Start(
      spawn, [this, raw](pid_t pid, const std::string& cause, bool gone) { OnExit(raw, pid, cause, gone); });
  if (!process.ok()) return process.status();
  slot->process = *std::move(process);
  slot->pid.store(slot->process->pid());
  MutexLock lock(slots_mutex_);
  slots_.push_back(std::move(slot));
  return absl::OkStatus();
}

std::vector<Ranks::Slot*> Ranks::Slots() {
  MutexLock lock(slots_mutex_);
  std::vector<Slot*> slots;
  for (const auto& slot : slots_) slots.push_back(slot.get());
  return slots;
}

absl::Status Ranks::AwaitState(plan::RankState state, const std::atomic<bool>& cancelled) {
  const RealClock clock;
  const TimeNs deadline = clock.Now() + kReadyTimeout;
  for (Slot* slot : Slots()) {
    while (slot->page->state.load(std::memory_order_acquire) != static_cast<uint32_t>(state)) {
      if (cancelled.load()) return absl::CancelledError("the group has been ended while its ranks started");
      SHOAL_RETURN_IF_ERROR(Alive());
      if (clock.Now() > deadline) {
        return absl::AbortedError(absl::StrCat("rank ", slot->rank, " is not ", std::string(plan::RankStateName(state)),
                                               " after ", kReadyTimeout / kSecond, " s"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (slot->from_rank.has_value()) continue;
    SHOAL_ASSIGN_OR_RETURN(slot->from_rank, plan::RingReader::Attach({slot->results.data(), slot->results.size()}, 0));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<plan::RankAddress>> Ranks::AwaitAddresses(const std::atomic<bool>& cancelled) {
  SHOAL_RETURN_IF_ERROR(AwaitState(plan::RankState::kConnecting, cancelled));
  std::vector<plan::RankAddress> addresses;
  for (Slot* slot : Slots()) {
    // Published before the state said so.
    SHOAL_ASSIGN_OR_RETURN(plan::Record record, slot->from_rank->Next(kSecond, nullptr));
    const bool sound = record.kind == plan::RecordKind::kAddress && record.stamp.epoch == epoch_ &&
                       !record.payload.empty() && record.payload.size() <= plan::kMaxAddressBytes;
    if (!sound) return absl::DataLossError(absl::StrCat("rank ", slot->rank, " has published no address"));
    addresses.push_back({slot->rank, std::move(record.payload)});
  }
  return addresses;
}

absl::Status Ranks::Connect(const plan::ConnectRanks& connect) {
  MutexLock lock(ring_mutex_);
  return ring_->Append(plan::RecordKind::kConnect, {connect.epoch, connect.coordinator, 0},
                       plan::EncodeConnect(connect));
}

absl::Status Ranks::AwaitReady(const std::atomic<bool>& cancelled) {
  SHOAL_RETURN_IF_ERROR(AwaitState(plan::RankState::kReady, cancelled));
  for (Slot* slot : Slots()) {
    const plan::RankExit if_spoilt{slot->rank, slot->pid.load(), epoch_, ""};
    slot->pump = std::make_unique<ResultPump>(*std::move(slot->from_rank), if_spoilt, outbox_);
    slot->from_rank.reset();
  }
  StartWatch();
  return absl::OkStatus();
}

absl::Status Ranks::Alive() {
  MutexLock lock(slots_mutex_);
  return first_end_;
}

void Ranks::OnExit(Slot* slot, pid_t pid, const std::string& cause, bool gone) {
  if (!gone) slot->stopped.store(true, std::memory_order_release);
  if (gone) {
    slot->dead.store(true, std::memory_order_release);
    if (slot->page->device_failed.load(std::memory_order_acquire) != 0) counters_.faults->Note(slot->rank);
    MutexLock lock(ring_mutex_);
    ring_->DetachReader(slot->reader);
  }
  if (ending_.load(std::memory_order_acquire) || slot->stuck.load(std::memory_order_acquire)) return;
  Report(*slot, pid, cause);
}

// Killed so that it can do no harm when it wakes up; its end is no news then.
void Ranks::OnStuck(Slot* slot) {
  if (ending_.load(std::memory_order_acquire)) return;
  slot->stuck.store(true, std::memory_order_release);
  Report(*slot, slot->pid.load(), StuckCause(*slot->page));
  slot->process->Kill();
}

void Ranks::Report(const Slot& slot, pid_t pid, const std::string& cause) {
  Log(absl::StrCat("rank ", slot.rank, " (pid ", pid, ") ", cause));
  outbox_->Push(plan::RankExit{slot.rank, pid, epoch_, cause});
  MutexLock lock(slots_mutex_);
  if (!first_end_.ok()) return;
  const bool refused = slot.page->refused.load(std::memory_order_acquire) != 0;
  first_end_ = absl::Status(refused ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kAborted,
                            absl::StrCat("rank ", slot.rank, " ", cause));
}

void Ranks::StartWatch() {
  std::vector<RankWatch::Watched> watched;
  {
    MutexLock lock(slots_mutex_);
    for (const auto& owned : slots_) {
      Slot* const slot = owned.get();
      watched.push_back({slot->pid.load(), slot->page, [slot] { return slot->dead.load() || slot->stopped.load(); },
                         [this, slot] { OnStuck(slot); }});
    }
  }
  watch_ = std::make_unique<RankWatch>(std::move(watched), &last_step_);
}

absl::Status Ranks::Append(const plan::Stamp& stamp, std::string_view plan) {
  MutexLock lock(ring_mutex_);
  if (ring_ == nullptr) return absl::FailedPreconditionError("the ranks have not been started");
  SHOAL_RETURN_IF_ERROR(ring_->Append(plan::RecordKind::kPlan, stamp, plan));
  last_step_.store(stamp.step, std::memory_order_relaxed);
  return absl::OkStatus();
}

std::vector<plan::RankStatus> Ranks::Statuses() const {
  MutexLock lock(slots_mutex_);
  std::vector<plan::RankStatus> statuses;
  for (const auto& slot : slots_) {
    const rank::ControlPage& page = *slot->page;
    plan::RankStatus s;
    s.rank = slot->rank;
    s.pid = slot->pid.load();
    const uint32_t state = page.state.load(std::memory_order_acquire);
    const bool dead =
        slot->dead.load(std::memory_order_acquire) || state > static_cast<uint32_t>(plan::RankState::kDead);
    s.state = dead ? plan::RankState::kDead : static_cast<plan::RankState>(state);
    s.step = page.step.load(std::memory_order_relaxed);
    s.progress = page.progress.load(std::memory_order_relaxed);
    s.operation = std::string(graph::OperationName(page.operation.load(std::memory_order_relaxed)));
    const uint32_t peer = page.waiting.peer.load(std::memory_order_relaxed);
    if (peer == comm::WaitNote::kAgent) s.waiting_for = plan::RankStatus::kAgent;
    if (peer != 0 && peer <= kMaxPeer) s.waiting_for = static_cast<int32_t>(peer - 1);
    s.resident_bytes = ResidentBytes(s.pid);
    s.decode_steps = page.decode_steps.load(std::memory_order_relaxed);
    s.decode_steps_planned = page.decode_steps_planned.load(std::memory_order_relaxed);
    for (size_t t = 0; t < comm::kTransportNames.size(); ++t) {
      const auto& sent = page.sent[t];
      s.comm_bytes.emplace_back(comm::kTransportNames[t],
                                sent.tensor.load() + sent.activation.load() + sent.token.load());
    }
    statuses.push_back(std::move(s));
  }
  return statuses;
}

uint64_t Ranks::StaleRecords() const {
  MutexLock lock(slots_mutex_);
  uint64_t records = 0;
  // Bounded, as above.
  for (const auto& slot : slots_) records += std::min(slot->page->stale_records.load(), plan::kMaxStale);
  return records;
}

void Ranks::Abort() {
  ending_.store(true, std::memory_order_release);
  {
    MutexLock lock(slots_mutex_);
    for (const auto& slot : slots_) {
      slot->page->abort.store(1, std::memory_order_release);
      slot->page->stop.store(1, std::memory_order_release);
    }
  }
  MutexLock lock(ring_mutex_);
  // Wakes ranks that wait for a plan. When the ring is full, the slowest is not waiting; the others may be, and are
  // ended by End()'s kill.
  if (ring_ != nullptr) ring_->Append(plan::RecordKind::kStop, {epoch_, 0, 0}, {}).IgnoreError();
}

void Ranks::End() {
  Abort();
  watch_.reset();
  // They stay listed until the last process is gone: Statuses() shows them meanwhile.
  const std::vector<Slot*> slots = Slots();
  // A stopped rank ends by no request.
  for (const Slot* slot : slots) {
    if (slot->stopped.load(std::memory_order_acquire)) slot->process->Kill();
  }
  const RealClock clock;
  const TimeNs deadline = clock.Now() + kEndGrace;
  for (const Slot* slot : slots) slot->process->WaitGone(std::max<DurationNs>(0, deadline - clock.Now()));
  for (const Slot* slot : slots) slot->process->Kill();
  for (Slot* slot : slots) slot->process.reset();  // reaps
  counters_.stale->Count(plan::StalePlace::kRecord, StaleRecords());
  std::vector<std::unique_ptr<Slot>> ended;  // destroyed outside the lock: their pumps end
  MutexLock lock(slots_mutex_);
  ended.swap(slots_);
}

}  // namespace shoal::agent
