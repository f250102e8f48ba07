// Tested by: tests/maker/maker_test.cc
#include "worker/maker/make_weights.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/plan/shard_plan.h"
#include "common/plan/wire_setup.h"
#include "worker/maker/device_region.h"
#include "worker/rank/shape.h"
#include "worker/weights/open_weights.h"
#include "worker/weights/weights.h"

namespace shoal::maker {
namespace {

constexpr DurationNs kReportInterval = 100 * kMillisecond;
constexpr auto kPatience = std::chrono::milliseconds(10);
// For each thread the piece that it fills, and one on its way.
constexpr int kPiecesPerThread = 2;

struct Shard {
  weights::OpenedWeights opened;
  weights::WeightLayout layout;  // points into the checkpoint
};

absl::StatusOr<Shard> OpenShard(const Request& request, const ops::OpTable& table) {
  SHOAL_ASSIGN_OR_RETURN(const plan::RankSetup setup, plan::DecodeSetup(request.setup));
  SHOAL_ASSIGN_OR_RETURN(const rank::Numerics numerics, rank::ResolveNumerics(setup.engine));
  Shard shard;
  SHOAL_ASSIGN_OR_RETURN(shard.opened, weights::OpenWeights(request.model, request.revision, setup.engine));
  const model::ModelConfig& config = shard.opened.files.config;
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan shards, plan::MakeShardPlan(config, setup.tp, setup.pp));
  SHOAL_ASSIGN_OR_RETURN(shard.layout, weights::MakeLayout(config, *shard.opened.checkpoint, shards.ranks[setup.rank],
                                                           table, numerics.compute_f32));
  if (shard.layout.region_bytes != request.bytes) {
    return absl::FailedPreconditionError(absl::StrCat("the weights take ", shard.layout.region_bytes,
                                                      " bytes, their agent expects ", request.bytes,
                                                      ": have the files changed?"));
  }
  return shard;
}

// Loads on threads of its own; this one is the accelerator's. Returns the bytes read.
absl::StatusOr<int64_t> Load(const Shard& shard, const ops::OpTable& table, int threads, DeviceRegion& region,
                             const std::function<absl::Status(int64_t)>& progress) {
  const RealClock clock;
  std::atomic<int64_t> bytes_read{0};
  std::atomic<bool> cancelled{false}, loaded{false};
  absl::Status status, reported;
  std::thread loader([&] {
    status =
        weights::LoadShard(*shard.opened.checkpoint, shard.layout, table, region, threads, &bytes_read, &cancelled);
    loaded.store(true, std::memory_order_release);
  });
  TimeNs next_report = clock.Now() + kReportInterval;
  while (!loaded.load(std::memory_order_acquire)) {
    // Its error is also what the loader ends with: there is no room any more.
    region.Serve(kPatience).IgnoreError();
    if (clock.Now() < next_report) continue;
    next_report = clock.Now() + kReportInterval;
    if (reported.ok()) reported = progress(bytes_read.load(std::memory_order_relaxed));
    if (!reported.ok()) cancelled.store(true, std::memory_order_relaxed);
  }
  loader.join();
  SHOAL_RETURN_IF_ERROR(reported);
  SHOAL_RETURN_IF_ERROR(status);
  SHOAL_RETURN_IF_ERROR(region.Finish());
  return bytes_read.load(std::memory_order_relaxed);
}

}  // namespace

absl::StatusOr<Answer> MakeWeights(const Request& request, ops::Accelerator& accelerator,
                                   const std::function<absl::Status(int64_t bytes_read)>& progress) {
  const RealClock clock;
  const ops::OpTable& table = accelerator.table();
  SHOAL_ASSIGN_OR_RETURN(const Shard shard, OpenShard(request, table));
  SHOAL_ASSIGN_OR_RETURN(const ops::Accelerator::SharedHandle handle,
                         accelerator.CreateShared(static_cast<size_t>(request.bytes)));
  const auto close = [](const int* fd) { ::close(*fd); };
  std::unique_ptr<const int, decltype(close)> owned(&handle.fd, close);
  SHOAL_ASSIGN_OR_RETURN(void* const memory, accelerator.MapShared(handle.fd, handle.bytes));
  const TimeNs begin = clock.Now();
  absl::StatusOr<int64_t> loaded;
  {
    absl::StatusOr<std::unique_ptr<DeviceRegion>> region =
        DeviceRegion::Create(&accelerator, static_cast<std::byte*>(memory), kPiecesPerThread * request.threads,
                             weights::LargestPiece(shard.layout, table));
    loaded = region.ok() ? Load(shard, table, request.threads, **region, progress)
                         : absl::StatusOr<int64_t>(region.status());
  }
  accelerator.UnmapShared(memory, handle.bytes);
  SHOAL_RETURN_IF_ERROR(loaded.status());
  Answer answer;
  answer.fd = *owned.release();
  answer.bytes = static_cast<int64_t>(handle.bytes);
  answer.bytes_read = *loaded;
  answer.load_ns = clock.Now() - begin;
  return answer;
}

}  // namespace shoal::maker
