#include "tests/comm/group.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <future>

#include "common/base/check.h"
#include "tests/comm/nccl_group.h"
#include "worker/comm/gloo.h"
#include "worker/comm/local.h"
#include "worker/comm/shm.h"

namespace shoal::comm {

std::string TransportName(TestTransport t) {
  switch (t) {
    case TestTransport::kLocal:
      return "Local";
    case TestTransport::kLocalUnbuffered:
      return "LocalUnbuffered";
    case TestTransport::kShm:
      return "Shm";
    case TestTransport::kGloo:
      return "Gloo";
    case TestTransport::kNccl:
      return "Nccl";
    case TestTransport::kPeer:
      return "Peer";
  }
  return "";
}

Transport Carrier(TestTransport t) { return t == TestTransport::kPeer ? Transport::kPeer : ChannelCarrier(t); }

Transport ChannelCarrier(TestTransport t) {
  switch (t) {
    case TestTransport::kShm:
      return Transport::kShm;
    case TestTransport::kGloo:
      return Transport::kGloo;
    case TestTransport::kNccl:
    case TestTransport::kPeer:
      return Transport::kNccl;
    default:
      return Transport::kLocal;
  }
}

std::vector<RankComm> ConnectGloo(const GroupShape& shape, std::span<const AbortFlag* const> abort) {
  std::signal(SIGPIPE, SIG_IGN);
  std::vector<std::unique_ptr<GlooListener>> listeners;
  std::vector<std::string> addresses;
  for (int r = 0; r < shape.tp * shape.pp; ++r) {
    auto listener = GlooListener::Listen(shape, r, 7, "127.0.0.1", abort[r]);
    SHOAL_CHECK(listener.ok());
    addresses.push_back((*listener)->address());
    listeners.push_back(*std::move(listener));
  }
  std::vector<std::future<absl::StatusOr<RankComm>>> connecting;
  for (auto& listener : listeners) {
    connecting.push_back(std::async(std::launch::async, [&] { return listener->Connect(addresses, 30 * kSecond); }));
  }
  std::vector<RankComm> ranks;
  for (auto& rank : connecting) {
    auto connected = rank.get();
    SHOAL_CHECK(connected.ok());
    ranks.push_back(*std::move(connected));
  }
  return ranks;
}

bool Eventually(const std::function<absl::Status()>& attempt) {
  const RealClock clock;
  const TimeNs end = clock.Now() + 30 * kSecond;
  while (!attempt().ok()) {
    if (clock.Now() > end) return false;
  }
  return true;
}

void TestGroup::Free::operator()(void* memory) const { std::free(memory); }

TestGroup::TestGroup(const GroupShape& shape, TestTransport transport) : abort_(shape.tp * shape.pp) {
  std::vector<const AbortFlag*> flags;
  for (const AbortFlag& flag : abort_) flags.push_back(&flag);
  if (OnDevice(transport)) {
    const auto policy = transport == TestTransport::kPeer ? AllReducePolicy::kOneShot : AllReducePolicy::kNccl;
    devices_ = std::make_unique<NcclGroup>(shape, flags, cuda::emulated::Pace::kEager, policy);
    for (int r = 0; r < devices_->size(); ++r) ranks_.push_back(OnHost(devices_->rank(r), devices_->accelerator(r)));
    return;
  }
  if (transport == TestTransport::kGloo) {
    ranks_ = ConnectGloo(shape, flags);
    return;
  }
  if (transport != TestTransport::kShm) {
    const bool buffered = transport == TestTransport::kLocal;
    ranks_ = MakeLocalGroup(shape, buffered ? LocalMode::kBuffered : LocalMode::kUnbuffered, flags);
    return;
  }
  const size_t bytes = ShmSegmentBytes(shape);
  segment_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
  std::memset(segment_.get(), 0, bytes);
  for (int r = 0; r < shape.tp * shape.pp; ++r) {
    auto rank = MakeShmRank(shape, r, 7, {segment_.get(), bytes}, flags[r]);
    SHOAL_CHECK(rank.ok());
    ranks_.push_back(*std::move(rank));
  }
}

TestGroup::~TestGroup() = default;

std::vector<absl::Status> TestGroup::Run(const std::function<absl::Status(int)>& fn) {
  std::vector<std::future<absl::Status>> running;
  for (int r = 0; r < size(); ++r) running.push_back(std::async(std::launch::async, fn, r));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (auto& f : running) {
    if (f.wait_until(deadline) == std::future_status::ready) continue;
    for (AbortFlag& flag : abort_) flag.store(1);
  }
  std::vector<absl::Status> results;
  for (auto& f : running) results.push_back(f.get());
  return results;
}

}  // namespace shoal::comm
