// Tested by: tests/comm/channels_test.cc
#include "worker/comm/local.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "worker/comm/local_channels.h"

namespace shoal::comm {
namespace {

constexpr size_t kBufferedMessages = 2;  // as many as the shared-memory transport has slots

// From one rank to the same tensor index of the next stage.
struct LocalLink {
  Mutex mutex;
  CondVar changed;
  std::deque<std::vector<std::byte>> buffered SHOAL_GUARDED_BY(mutex);
  std::span<const std::byte> offered SHOAL_GUARDED_BY(mutex);  // unbuffered: the sender's own memory
  uint64_t sent SHOAL_GUARDED_BY(mutex) = 0, taken SHOAL_GUARDED_BY(mutex) = 0;
};

class LocalSender final : public StageSender {
 public:
  LocalSender(std::shared_ptr<LocalLink> link, std::shared_ptr<LocalRank> rank)
      : link_(std::move(link)), rank_(std::move(rank)) {}

  absl::Status Send(std::span<const std::byte> data) override {
    LocalLink& link = *link_;
    const size_t room = rank_->mode == LocalMode::kBuffered ? kBufferedMessages : 1;
    MutexLock lock(link.mutex);
    while (link.sent >= link.taken + room) {
      SHOAL_RETURN_IF_ERROR(rank_->Sleep(link.mutex, link.changed, "room for activations"));
    }
    if (rank_->mode == LocalMode::kBuffered) {
      link.buffered.emplace_back(data.begin(), data.end());
    } else {
      link.offered = data;
    }
    const uint64_t mine = ++link.sent;
    rank_->stats.over(Transport::kLocal).activation += static_cast<int64_t>(data.size());
    link.changed.NotifyAll();
    if (rank_->mode == LocalMode::kBuffered) return absl::OkStatus();
    while (link.taken < mine) {
      const absl::Status slept = rank_->Sleep(link.mutex, link.changed, "a taker of activations");
      if (slept.ok()) continue;
      --link.sent;  // the memory goes away with this rank: take the offer back
      return slept;
    }
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<LocalLink> link_;
  const std::shared_ptr<LocalRank> rank_;
};

class LocalReceiver final : public StageReceiver {
 public:
  LocalReceiver(std::shared_ptr<LocalLink> link, std::shared_ptr<LocalRank> rank)
      : link_(std::move(link)), rank_(std::move(rank)) {}

  absl::Status Receive(std::span<std::byte> data) override {
    LocalLink& link = *link_;
    MutexLock lock(link.mutex);
    while (link.sent == link.taken) SHOAL_RETURN_IF_ERROR(rank_->Sleep(link.mutex, link.changed, "activations"));
    const bool buffered = !link.buffered.empty();
    const std::span<const std::byte> from = buffered ? std::span<const std::byte>(link.buffered.front()) : link.offered;
    if (from.size() != data.size()) {
      return absl::InternalError(absl::StrCat("ranks have diverged: ", from.size(), " bytes of activations were sent, ",
                                              data.size(), " were expected"));
    }
    std::copy(from.begin(), from.end(), data.begin());
    if (buffered) link.buffered.pop_front();
    ++link.taken;
    link.changed.NotifyAll();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<LocalLink> link_;
  const std::shared_ptr<LocalRank> rank_;
};

// One writer, `taken.size()` readers, slots in turn; the same in both modes.
struct LocalMail {
  struct Message {
    uint64_t step = 0;
    std::vector<int32_t> tokens;
  };
  explicit LocalMail(const GroupShape& shape) : slots(shape.mailbox_slots), taken(shape.tp, 0) {}

  Mutex mutex;
  CondVar changed;
  std::vector<Message> slots SHOAL_GUARDED_BY(mutex);
  uint64_t posted SHOAL_GUARDED_BY(mutex) = 0;
  std::vector<uint64_t> taken SHOAL_GUARDED_BY(mutex);
};

class LocalMailbox final : public TokenMailbox {
 public:
  LocalMailbox(std::shared_ptr<LocalMail> mail, int reader, std::shared_ptr<LocalRank> rank)
      : mail_(std::move(mail)), reader_(reader), rank_(std::move(rank)) {}

  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    LocalMail& m = *mail_;
    MutexLock lock(m.mutex);
    while (m.posted >= *std::min_element(m.taken.begin(), m.taken.end()) + m.slots.size()) {
      SHOAL_RETURN_IF_ERROR(rank_->Sleep(m.mutex, m.changed, "room for tokens"));
    }
    m.slots[m.posted++ % m.slots.size()] = {step, {tokens.begin(), tokens.end()}};
    rank_->stats.over(Transport::kLocal).token += static_cast<int64_t>(sizeof(step) + tokens.size_bytes());
    m.changed.NotifyAll();
    return absl::OkStatus();
  }

  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    LocalMail& m = *mail_;
    MutexLock lock(m.mutex);
    uint64_t& taken = m.taken[reader_];
    while (m.posted == taken) SHOAL_RETURN_IF_ERROR(rank_->Sleep(m.mutex, m.changed, "sampled tokens"));
    const LocalMail::Message& message = m.slots[taken % m.slots.size()];
    if (message.step != step || message.tokens.size() != tokens.size()) {
      return absl::InternalError(absl::StrCat("ranks have diverged: the mailbox holds ", message.tokens.size(),
                                              " tokens of step ", message.step, ", ", tokens.size(), " of step ", step,
                                              " were expected"));
    }
    std::copy(message.tokens.begin(), message.tokens.end(), tokens.begin());
    ++taken;
    m.changed.NotifyAll();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<LocalMail> mail_;
  const int reader_;  // tensor index within stage 0
  const std::shared_ptr<LocalRank> rank_;
};

}  // namespace

absl::Status LocalRank::Sleep(Mutex& mutex, CondVar& changed, const char* what) {
  if (abort->load(std::memory_order_acquire) != 0) {
    return absl::AbortedError(absl::StrCat("rank ", rank, " aborted while waiting for ", what));
  }
  const RealClock clock;
  const TimeNs begin = clock.Now();
  changed.WaitFor(mutex, std::chrono::milliseconds(5));
  stats.waited += clock.Now() - begin;
  return absl::OkStatus();
}

std::vector<RankComm> MakeLocalGroup(const GroupShape& shape, LocalMode mode, std::span<const AbortFlag* const> abort) {
  SHOAL_CHECK(abort.size() == static_cast<size_t>(shape.tp) * shape.pp);
  const auto mail = std::make_shared<LocalMail>(shape);
  std::vector<std::shared_ptr<LocalLink>> links((shape.pp - 1) * shape.tp);
  for (auto& link : links) link = std::make_shared<LocalLink>();

  std::vector<RankComm> group(abort.size());
  std::shared_ptr<LocalTensorGroup> tensor;
  for (int rank = 0; rank < shape.tp * shape.pp; ++rank) {
    const int stage = rank / shape.tp, index = rank % shape.tp;
    if (index == 0) tensor = MakeLocalTensorGroup(shape.tp);
    auto state = std::make_shared<LocalRank>(LocalRank{abort[rank], mode, rank});
    RankComm& comm = group[rank];
    comm.tensor = MakeLocalTensor(tensor, index, state);
    if (stage + 1 < shape.pp) comm.next = std::make_unique<LocalSender>(links[rank], state);
    if (stage > 0) comm.previous = std::make_unique<LocalReceiver>(links[rank - shape.tp], state);
    if (rank == (shape.pp - 1) * shape.tp) comm.mailbox_out = std::make_unique<LocalMailbox>(mail, 0, state);
    if (stage == 0) comm.mailbox_in = std::make_unique<LocalMailbox>(mail, index, state);
    comm.stats = &state->stats;
    comm.keep_alive = std::move(state);
  }
  return group;
}

}  // namespace shoal::comm
