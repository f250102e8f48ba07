// Tested by: tests/process/process_test.cc
#include "worker/rank/process.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/ring.h"
#include "common/plan/wire.h"
#include "common/plan/wire_setup.h"
#include "worker/comm/staged.h"
#include "worker/device/device.h"
#include "worker/device/memory.h"
#include "worker/kv/kv_cache.h"
#include "worker/rank/engine.h"
#include "worker/rank/memory_report.h"
#include "worker/rank/process_comm.h"
#include "worker/rank/process_memory.h"
#include "worker/rank/process_plans.h"
#include "worker/rank/shape.h"
#include "worker/weights/weights.h"

namespace shoal::rank {
namespace {

// The agent writes the record right after the process: only a broken agent needs longer.
constexpr DurationNs kSetupTimeout = 30 * kSecond;
constexpr int kOrphanedExit = 3;
// Far above what the news of a rank's death takes from its agent to ours.
constexpr DurationNs kLostPeerPatience = 500 * kMillisecond;

// For tests of what follows from a fault: SHOAL_FAULT_ON_SIGUSR1=illegal-access in a rank's environment.
constexpr char kFaultVariable[] = "SHOAL_FAULT_ON_SIGUSR1";
std::atomic<bool> g_provoke_fault{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // written by a signal handler

absl::Status AwaitFaultSignal() {
  const char* const fault = std::getenv(kFaultVariable);
  if (fault == nullptr) return absl::OkStatus();
  if (fault != std::string_view("illegal-access")) {
    return absl::InvalidArgumentError(absl::StrCat(kFaultVariable, "=", fault, ": there is illegal-access"));
  }
  std::signal(SIGUSR1, [](int) { g_provoke_fault.store(true); });
  return absl::OkStatus();
}

// Ends this process when the agent has died. PR_SET_PDEATHSIG does it at once, but misses an agent that died before it
// was set; the descriptor never misses.
class ParentWatch {
 public:
  ParentWatch() : quit_(::eventfd(0, EFD_CLOEXEC)) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    thread_ = std::thread([this] { Watch(); });
  }
  ~ParentWatch() {
    ::eventfd_write(quit_, 1);
    thread_.join();
    ::close(quit_);
  }

 private:
  void Watch() const {
    pollfd fds[2] = {{kParentPidFd, POLLIN, 0}, {quit_, POLLIN, 0}};
    while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    if (fds[1].revents == 0) ::_exit(kOrphanedExit);
  }

  int quit_;
  std::thread thread_;
};

// What a rank has inherited of the host's memory, mapped; weights and KV cache are process_memory.h's.
struct Inherited {
  device::SharedMemory control, plans, results, channels;
  ControlPage* page = nullptr;
};

absl::StatusOr<device::SharedMemory> Map(int fd, bool writable, const char* what) {
  auto memory = device::SharedMemory::Attach(fd, writable);
  if (!memory.ok()) return absl::Status(memory.status().code(), absl::StrCat(what, ": ", memory.status().message()));
  return memory;
}

absl::StatusOr<Inherited> MapInherited() {
  Inherited in;
  SHOAL_ASSIGN_OR_RETURN(in.control, Map(kControlFd, true, "control page"));
  SHOAL_ASSIGN_OR_RETURN(in.plans, Map(kPlanRingFd, true, "plan ring"));
  SHOAL_ASSIGN_OR_RETURN(in.results, Map(kResultRingFd, true, "result ring"));
  SHOAL_ASSIGN_OR_RETURN(in.channels, Map(kChannelsFd, true, "channels"));
  if (in.control.size() < sizeof(ControlPage)) return absl::DataLossError("the control page is too small");
  in.page = reinterpret_cast<ControlPage*>(in.control.data());
  if (in.page->magic != ControlPage::kMagic) return absl::DataLossError("the control page is of another build");
  return in;
}

// The first setup record after this reader was attached is its own.
absl::StatusOr<plan::RankSetup> ReadSetup(plan::RingReader& reader) {
  SHOAL_ASSIGN_OR_RETURN(const plan::Record record, reader.Next(kSetupTimeout, nullptr));
  if (record.kind != plan::RecordKind::kSetup) return absl::InternalError("the first record is no setup");
  return plan::DecodeSetup(record.payload);
}

void SetState(ControlPage* page, plan::RankState state) {
  page->state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

// Hands results to the agent. Waits while the ring is full: the agent is slow, or it will abort or kill this rank.
absl::Status SendResult(plan::RingWriter& ring, ControlPage& page, const plan::StepResult& result) {
  const std::string bytes = plan::EncodeResult(result);
  absl::Status appended = ring.Append(plan::RecordKind::kResult, result.stamp, bytes);
  if (!absl::IsResourceExhausted(appended)) return appended;
  comm::NotedWait noted(&page.waiting, comm::WaitNote::kAgent);
  while (true) {
    noted.Look();
    if (page.abort.load(std::memory_order_acquire) != 0) return absl::AbortedError("the group was aborted");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    appended = ring.Append(plan::RecordKind::kResult, result.stamp, bytes);
    if (!absl::IsResourceExhausted(appended)) return appended;
  }
}

absl::Status Run(Inherited& in, const plan::RankSetup& setup, plan::RingReader& reader) {
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan shards, plan::MakeShardPlan(setup.model, setup.tp, setup.pp));
  const plan::RankShard& shard = shards.ranks[setup.rank];
  SHOAL_ASSIGN_OR_RETURN(const Numerics numerics, ResolveNumerics(setup.engine));
  SHOAL_ASSIGN_OR_RETURN(const RankMemory memory, AttachMemory(setup));
  device::Device* const device = memory.device.get();
  device->stream().progress = &in.page->progress;
  const auto read = [device](void* to, const std::byte* from, size_t bytes) {
    return device->Download(to, from, bytes);
  };
  SHOAL_ASSIGN_OR_RETURN(const weights::ModelWeights weights,
                         weights::Bind(memory.weights, read, setup.model, shard, device->table()));

  const kv::KvShape kv_shape =
      kv::MakeKvShape(shard, setup.model, numerics.kv, setup.limits.block_size, setup.limits.blocks);
  if (static_cast<int64_t>(memory.kv.size()) < kv::RegionBytes(kv_shape)) {
    return absl::InternalError(
        absl::StrCat("a KV region of ", memory.kv.size(), " bytes, ", kv::RegionBytes(kv_shape), " are needed"));
  }
  const std::vector<ops::KvLayer> layers = kv::MakeLayers(kv_shape, memory.kv);

  SHOAL_ASSIGN_OR_RETURN(plan::RingWriter results, plan::RingWriter::Create({in.results.data(), in.results.size()}));
  SHOAL_RETURN_IF_ERROR(results.AttachReader().status());  // slot 0: the agent's
  const comm::GroupShape channels = ChannelShape(setup.model, setup.limits, setup.tp, setup.pp);
  SHOAL_ASSIGN_OR_RETURN(comm::RankComm comm, OpenChannels(setup, channels, {in.channels.data(), in.channels.size()},
                                                           reader, results, in.page, memory.parts));
  if (!comm.sums.empty()) std::fprintf(stderr, "rank %d: %s\n", setup.rank, comm.sums.c_str());
  // What a host's transport carries for a device goes through host memory.
  if (!device->is_host() && setup.engine.transport != "nccl") comm = comm::MakeStaged(std::move(comm), device);

  graph::OperationLog operations(&in.page->operation, &device->stream());
  const graph::DecoderOptions options{setup.limits.max_tokens, setup.limits.max_sequences, setup.limits.max_model_len};
  SHOAL_ASSIGN_OR_RETURN(
      std::unique_ptr<graph::Decoder> decoder,
      graph::Decoder::Create(setup.model, shard, options, device, &weights, layers, comm.tensor.get(), &operations));

  RingSource source(&reader, {setup.epoch, setup.coordinator, 0}, &in.page->stale_records);
  const RealClock clock;
  EngineParts parts;
  parts.rank = setup.rank;
  parts.shard = shard;
  parts.tp = setup.tp;
  parts.pp = setup.pp;
  parts.limits = setup.limits;
  parts.device = device;
  parts.decoder = std::move(decoder);
  parts.kv = layers;
  parts.comm = &comm;
  parts.mailbox_slots = channels.mailbox_slots;
  parts.plans = &source;
  MemoryReport memory_report(memory.parts.accelerator, setup.planned_device_bytes, [&](const std::string& line) {
    std::fprintf(stderr, "rank %d: %s\n", setup.rank, line.c_str());
  });
  parts.on_result = [&](const plan::StepResult& result) {
    memory_report.AfterStep();
    return SendResult(results, *in.page, result);
  };
  parts.page = in.page;
  parts.operations = &operations;
  parts.checked_steps = setup.checked_steps;
  parts.provoke_fault = &g_provoke_fault;
  parts.clock = &clock;
  SetState(in.page, plan::RankState::kReady);
  return RunEngine(std::move(parts));
}

// A rank that has lost another one leaves the first word to the agent of that one: it knows how it ended, and an abort
// follows from that.
void AwaitAbort(ControlPage& page) {
  const RealClock clock;
  const TimeNs end = clock.Now() + kLostPeerPatience;
  comm::NotedWait noted(&page.waiting, comm::WaitNote::kAgent);
  while (page.abort.load(std::memory_order_acquire) == 0 && clock.Now() < end) {
    noted.Look();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

absl::Status AttachAndRun(int plan_reader, int32_t* rank) {
  SHOAL_RETURN_IF_ERROR(AwaitFaultSignal());
  SHOAL_ASSIGN_OR_RETURN(Inherited in, MapInherited());
  SetState(in.page, plan::RankState::kLoading);
  SHOAL_ASSIGN_OR_RETURN(plan::RingReader reader,
                         plan::RingReader::Attach({in.plans.data(), in.plans.size()}, plan_reader));
  SHOAL_ASSIGN_OR_RETURN(const plan::RankSetup setup, ReadSetup(reader));
  *rank = setup.rank;
  absl::Status ended = Run(in, setup, reader);
  // What it was told to be cannot be here (no library for it, no peer memory): somebody has to change something.
  const bool was_ready = in.page->state.load() >= static_cast<uint32_t>(plan::RankState::kReady);
  if (absl::IsFailedPrecondition(ended) && !was_ready) in.page->refused.store(1, std::memory_order_release);
  if (absl::IsUnavailable(ended)) AwaitAbort(*in.page);
  SetState(in.page, plan::RankState::kDead);
  // An abort from outside is an order, not a fault; so is what comes of one that other ranks have heard first.
  const bool cut = absl::IsAborted(ended) || absl::IsUnavailable(ended);
  if (cut && in.page->abort.load(std::memory_order_acquire) != 0) return absl::OkStatus();
  return ended;
}

}  // namespace

absl::Status RunRankProcess(int plan_reader) {
  std::signal(SIGPIPE, SIG_IGN);  // the agent reads our stderr; its death is noticed otherwise
  const ParentWatch watch;
  int32_t rank = -1;
  absl::Status status = AttachAndRun(plan_reader, &rank);
  const std::string name = rank >= 0 ? absl::StrCat("rank ", rank) : absl::StrCat("rank of reader ", plan_reader);
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", name.c_str(), status.ToString().c_str());
  return status;
}

int RankExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  return absl::IsUnavailable(status) ? plan::kLostPeerExit : 1;
}

}  // namespace shoal::rank
