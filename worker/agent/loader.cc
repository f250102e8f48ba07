// Tested by: tests/agent/agent_test.cc
#include "worker/agent/loader.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/plan/wire_setup.h"
#include "worker/agent/host.h"

namespace shoal::agent {
namespace {

constexpr auto kReportInterval = std::chrono::milliseconds(100);

// One shard on its way: its thread writes `status`, then counts itself out.
struct Shard {
  const LocalRank* local = nullptr;
  device::SharedMemory memory;
  std::atomic<int64_t> bytes{0};
  int64_t bytes_read = 0;  // by another process
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

// By a maker, into memory of the device.
absl::Status LoadOnDevice(const Joined& joined, Shard& shard, int threads, const std::atomic<bool>& cancelled) {
  const LocalRank& local = *shard.local;
  const plan::JoinGroup& join = joined.join;
  plan::RankSetup setup;
  setup.rank = local.rank;
  setup.tp = join.tp;
  setup.pp = join.pp;
  setup.model = joined.files.config;
  setup.engine = join.engine;
  setup.limits = join.limits;
  setup.limits.blocks = std::max(setup.limits.blocks, 1);  // 0: still to be decided
  const maker::Request request = {.kind = maker::Request::Kind::kWeights,
                                  .device = local.device,
                                  .bytes = local.layout.region_bytes,
                                  .numerics = joined.numerics.mode,
                                  .threads = threads,
                                  .setup = plan::EncodeSetup(setup),
                                  .model = join.model,
                                  .revision = join.revision};
  SHOAL_ASSIGN_OR_RETURN(maker::Makers::Weights weights,
                         joined.cuda->makers().LoadWeights(request, &shard.bytes, &cancelled));
  shard.memory = std::move(weights.memory);
  shard.bytes_read = weights.bytes_read;
  const double seconds = static_cast<double>(std::max<DurationNs>(weights.load_time, 1)) / kSecond;
  char speed[64];
  std::snprintf(speed, sizeof speed, "%.2f GB in %.2f s, %.2f GB/s", static_cast<double>(weights.bytes_read) / 1e9,
                seconds, static_cast<double>(weights.bytes_read) / 1e9 / seconds);
  Log(absl::StrCat("rank ", local.rank, ": weights read onto CUDA device ", local.device, ": ", speed));
  return absl::OkStatus();
}

absl::Status Load(const Joined& joined, Shard& shard, int threads, const std::atomic<bool>& cancelled) {
  if (joined.cuda != nullptr) return LoadOnDevice(joined, shard, threads, cancelled);
  SHOAL_ASSIGN_OR_RETURN(shard.memory,
                         device::SharedMemory::Create(absl::StrCat("shoal-weights-r", shard.local->rank),
                                                      static_cast<size_t>(shard.local->layout.region_bytes)));
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
  std::vector<Shelf::Place> places;
  for (const LocalRank& local : joined.ranks) places.push_back({local.rank, local.device});
  shelf.KeepOnly(joined.weights_key, places);

  std::deque<Shard> shards;
  for (const LocalRank& local : joined.ranks) {
    if (shelf.Weights(joined.weights_key, local.rank, local.device) != nullptr) continue;
    Shard& shard = shards.emplace_back();
    shard.local = &local;
    result->bytes_total += local.layout.read_bytes;
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
  for (const Shard& shard : shards) result->bytes_read += shard.bytes_read;
  return Collect(joined, shards, shelf);
}

}  // namespace shoal::agent
