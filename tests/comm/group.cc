#include "tests/comm/group.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>

#include "common/base/check.h"
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
  }
  return "";
}

Transport Carrier(TestTransport t) { return t == TestTransport::kShm ? Transport::kShm : Transport::kLocal; }

void TestGroup::Free::operator()(void* memory) const { std::free(memory); }

TestGroup::TestGroup(const GroupShape& shape, TestTransport transport) : abort_(shape.tp * shape.pp) {
  std::vector<const AbortFlag*> flags;
  for (const AbortFlag& flag : abort_) flags.push_back(&flag);
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
