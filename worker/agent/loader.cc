// Tested by: tests/agent/agent_test.cc
#include "worker/agent/loader.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace shoal::agent {
namespace {

constexpr auto kReportInterval = std::chrono::milliseconds(100);

// One shard on its way: its thread writes `status`, then counts itself out.
struct Shard {
  const LocalRank* local = nullptr;
  device::SharedMemory memory;
  std::atomic<int64_t> bytes{0};
  absl::Status status;
  std::thread thread;
};

// How many loads still run.
class Running {
 public:
  explicit Running(size_t count) : count_(count) {}
  void Done() {
    MutexLock lock(mutex_);
    --count_;
    changed_.NotifyAll();
  }
  // False when some still run after the interval.
  bool WaitForNone(std::chrono::nanoseconds interval) {
    MutexLock lock(mutex_);
    if (count_ != 0) changed_.WaitFor(mutex_, interval);
    return count_ == 0;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  size_t count_ SHOAL_GUARDED_BY(mutex_);
};

absl::Status Load(const Joined& joined, Shard& shard, int threads, const std::atomic<bool>& cancelled) {
  const std::span<std::byte> region(shard.memory.data(), shard.memory.size());
  SHOAL_RETURN_IF_ERROR(weights::LoadShard(*joined.checkpoint, shard.local->layout, *joined.table, region, threads,
                                           &shard.bytes, &cancelled));
  return shard.memory.Seal();
}

// Puts finished shards on the shelf; one status for all failures.
absl::Status Collect(const Joined& joined, std::deque<Shard>& shards, Shelf& shelf) {
  std::string problems;
  absl::StatusCode code = absl::StatusCode::kOk;
  for (Shard& shard : shards) {
    if (shard.status.ok()) {
      shelf.PutWeights(joined.weights_key, shard.local->rank, std::move(shard.memory));
      continue;
    }
    if (code == absl::StatusCode::kOk) code = shard.status.code();
    absl::StrAppend(&problems, problems.empty() ? "" : "; ", "rank ", shard.local->rank, ": ", shard.status.message());
  }
  return absl::Status(code, problems);
}

}  // namespace

absl::Status LoadWeights(const Joined& joined, int cores, Shelf& shelf, const std::atomic<bool>& cancelled,
                         const std::function<void(const plan::LoadProgress&)>& report, plan::LoadProgress* result) {
  std::vector<int32_t> ranks;
  for (const LocalRank& local : joined.ranks) ranks.push_back(local.rank);
  shelf.KeepOnly(joined.weights_key, ranks);

  std::deque<Shard> shards;
  for (const LocalRank& local : joined.ranks) {
    if (shelf.Weights(joined.weights_key, local.rank) != nullptr) continue;
    Shard& shard = shards.emplace_back();
    shard.local = &local;
    result->bytes_total += local.layout.read_bytes;
    SHOAL_ASSIGN_OR_RETURN(shard.memory, device::SharedMemory::Create(absl::StrCat("shoal-weights-r", local.rank),
                                                                      local.layout.region_bytes));
  }
  result->reused = shards.empty();
  if (shards.empty()) return absl::OkStatus();

  const int64_t read_before = joined.checkpoint->bytes_read();
  const int threads = std::max<int>(1, cores / static_cast<int>(shards.size()));
  Running running(shards.size());
  for (Shard& shard : shards) {
    shard.thread = std::thread([&joined, &shard, &cancelled, &running, threads] {
      shard.status = Load(joined, shard, threads, cancelled);
      running.Done();
    });
  }
  bool finished = false;
  while (!finished) {
    finished = running.WaitForNone(kReportInterval);
    result->bytes_done = 0;
    for (const Shard& shard : shards) result->bytes_done += shard.bytes.load(std::memory_order_relaxed);
    report(*result);
  }
  for (Shard& shard : shards) shard.thread.join();
  result->bytes_read = joined.checkpoint->bytes_read() - read_before;
  return Collect(joined, shards, shelf);
}

}  // namespace shoal::agent
