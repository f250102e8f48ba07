// Tested by: tests/comm/nccl_test.cc
#include "worker/comm/nccl_rank.h"

#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

// An operation is on its way to the queue for some 30 us (NCCL has a thread do it); a wait that lasts longer is for
// another rank, or for room in NCCL's own queues.
constexpr DurationNs kSpin = kSecond / 1000;
constexpr auto kPause = std::chrono::microseconds(500);

std::string Ranks(const std::vector<int>& ranks) { return absl::StrJoin(ranks, ", "); }

// The same code, and whom it concerns.
absl::Status Annotate(const absl::Status& status, int rank, const std::string& what) {
  return absl::Status(status.code(), absl::StrCat("rank ", rank, ", ", what, ": ", status.message()));
}

std::vector<int> Others(const NcclMembers& members) {
  std::vector<int> others = members.ranks;
  others.erase(others.begin() + members.index);
  return others;
}

}  // namespace

std::string NcclLink::Name() const {
  return absl::StrCat(std::string(kNcclKindNames[static_cast<size_t>(members_.kind)]), " channel of ranks ",
                      Ranks(members_.ranks));
}

absl::Status NcclLink::Done(const absl::Status& begun) {
  if (!begun.ok()) return rank_->Break(Annotate(begun, rank_->setup_.rank, Name()));
  return rank_->Await(Name(), Others(members_), [this] { return comm_->Settled(); });
}

absl::Status NcclLink::AllGather(const void* part, void* all, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(rank_->Check());
  return Done(comm_->AllGather(part, all, bytes, rank_->accelerator().native_stream()));
}

absl::Status NcclLink::Exchange(std::span<const NcclComm::Transfer> transfers, void* stream) {
  SHOAL_RETURN_IF_ERROR(rank_->Check());
  if (transfers.empty()) return absl::OkStatus();
  return Done(comm_->Exchange(transfers, stream != nullptr ? stream : rank_->accelerator().native_stream()));
}

NcclRank::~NcclRank() {
  Abort();
  queue_ = nullptr;
  // Memory is freed only when nothing enqueued uses it; a device that is broken uses it no more either.
  setup_.accelerator->Synchronise().IgnoreError();
  peers_ = nullptr;
  for (void* memory : memory_) setup_.accelerator->Free(memory);
}

absl::StatusOr<NcclLink*> NcclRank::Join(const NcclId& id, NcclMembers members) {
  SHOAL_RETURN_IF_ERROR(Check());
  // Tokens are few: one block of the device carries them, and leaves the others alone.
  const int max_blocks = members.kind == NcclKind::kToken ? 1 : 0;
  const NcclApi::CommOptions options = {static_cast<int>(members.ranks.size()), members.index, max_blocks,
                                        setup_.accelerator->native_stream()};
  NcclLink& link = *links_.emplace_back(std::make_unique<NcclLink>(this, std::move(members)));
  auto comm = setup_.api->Join(id, options);
  if (!comm.ok()) return Break(Annotate(comm.status(), setup_.rank, link.Name()));
  link.comm_ = *std::move(comm);
  SHOAL_RETURN_IF_ERROR(Await(link.Name(), Others(link.members_), [&link] { return link.comm_->Settled(); }));
  return &link;
}

absl::StatusOr<std::byte*> NcclRank::Allocate(size_t bytes) {
  SHOAL_ASSIGN_OR_RETURN(void* const memory, setup_.accelerator->Allocate(bytes));
  memory_.push_back(memory);
  return static_cast<std::byte*>(memory);
}

absl::StatusOr<NcclQueue*> NcclRank::MakeQueue(int places) {
  SHOAL_ASSIGN_OR_RETURN(queue_, setup_.api->MakeQueue(setup_.accelerator->native_stream(), places));
  return queue_.get();
}

absl::Status NcclRank::AwaitQueue() {
  SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, setup_.accelerator->Mark());
  std::vector<int> others;
  for (const auto& link : links_) {
    for (const int rank : Others(link->members_)) others.push_back(rank);
  }
  return Await("first data", others, [&]() -> absl::StatusOr<bool> {
    SHOAL_RETURN_IF_ERROR(Poll());
    return setup_.accelerator->Reached(mark);
  });
}

void NcclRank::Connected() {
  deadline_ = kNoDeadline;
  stats = {};
}

absl::Status NcclRank::Poll() {
  SHOAL_RETURN_IF_ERROR(Check());
  for (const auto& link : links_) {
    if (link->comm_ == nullptr) continue;
    const auto settled = link->comm_->Settled();
    if (!settled.ok()) return Break(Annotate(settled.status(), setup_.rank, link->Name()));
  }
  return absl::OkStatus();
}

void NcclRank::Abort() {
  Break(absl::AbortedError(absl::StrCat("rank ", setup_.rank, " has ended its channels"))).IgnoreError();
  std::vector<NcclComm*> comms;
  for (const auto& link : links_) {
    if (link->comm_ != nullptr) comms.push_back(link->comm_.get());
  }
  if (!comms.empty()) setup_.api->Abort(comms);
  for (const auto& link : links_) link->comm_ = nullptr;
}

absl::Status NcclRank::Check() {
  if (broken_.ok() && setup_.abort->load(std::memory_order_acquire) != 0) {
    return Break(absl::AbortedError(absl::StrCat("rank ", setup_.rank, " aborted")));
  }
  return broken_;
}

absl::Status NcclRank::Break(const absl::Status& why) {
  if (!broken_.ok()) return broken_;
  broken_ = why;
  if (peers_ != nullptr) peers_->Abort();  // from now on the device waits there for nobody
  return broken_;
}

template <typename Ready>
absl::Status NcclRank::Await(const std::string& what, const std::vector<int>& peers, Ready ready) {
  const RealClock clock;
  const TimeNs begin = clock.Now();
  std::optional<NotedWait> slow;
  while (true) {
    const absl::StatusOr<bool> settled = ready();
    if (!settled.ok()) return Break(Annotate(settled.status(), setup_.rank, what));
    const TimeNs now = clock.Now();
    if (*settled) {
      if (slow.has_value()) stats.waited += now - begin;
      return absl::OkStatus();
    }
    SHOAL_RETURN_IF_ERROR(Check());
    if (now >= deadline_) {
      return Break(absl::DeadlineExceededError(
          absl::StrCat("rank ", setup_.rank, ", ", what, ": not all of ranks ", Ranks(peers), " came in time")));
    }
    if (now - begin < kSpin) {
      std::this_thread::yield();
      continue;
    }
    if (!slow.has_value()) slow.emplace(setup_.note, peers.empty() ? 0 : static_cast<uint32_t>(peers.front()) + 1);
    slow->Look();
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace shoal::comm
