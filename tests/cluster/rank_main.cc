// One rank of a group as a process: `cluster_rank MODEL TABLE TP PP RANK SEGMENT_FD TRANSPORT`. The segment holds a
// control page per rank, then the channels of shm. Over gloo the rank first writes its address to stdout and reads
// those of all from stdin. Plans come through stdin and results go to stdout. All of these are 4 bytes of length and
// the message.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/base/status_macros.h"
#include "common/plan/wire.h"
#include "kernels/ops/backends.h"
#include "tests/cluster/harness/shards.h"
#include "tests/cluster/process_shape.h"
#include "worker/comm/gloo.h"
#include "worker/comm/shm.h"
#include "worker/kv/kv_cache.h"
#include "worker/rank/engine.h"

namespace shoal::testing {
namespace {

bool ReadAll(int fd, void* data, size_t bytes) {
  for (auto* at = static_cast<char*>(data); bytes > 0;) {
    const ssize_t n = read(fd, at, bytes);
    if (n <= 0) return false;
    at += n;
    bytes -= n;
  }
  return true;
}

absl::Status ReadMessage(std::string* message) {
  uint32_t bytes = 0;
  if (!ReadAll(STDIN_FILENO, &bytes, sizeof(bytes))) return absl::CancelledError("end of input");
  message->assign(bytes, 0);
  return ReadAll(STDIN_FILENO, message->data(), bytes) ? absl::OkStatus() : absl::DataLossError("half a message");
}

void WriteMessage(const std::string& message) {
  const auto size = static_cast<uint32_t>(message.size());
  const std::string frame = std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + message;
  if (write(STDOUT_FILENO, frame.data(), frame.size()) != static_cast<ssize_t>(frame.size())) std::_Exit(9);
}

class StdinPlans final : public rank::PlanSource {
 public:
  absl::Status Next(plan::StepPlan* plan, TimeNs* arrived) override {
    std::string message;
    SHOAL_RETURN_IF_ERROR(ReadMessage(&message));
    SHOAL_ASSIGN_OR_RETURN(*plan, plan::DecodePlan(message));
    *arrived = RealClock().Now();
    return absl::OkStatus();
  }
  bool HasNext() const override { return false; }
};

absl::StatusOr<comm::RankComm> ConnectGloo(const comm::GroupShape& shape, int rank, const comm::AbortFlag* abort) {
  std::signal(SIGPIPE, SIG_IGN);
  SHOAL_ASSIGN_OR_RETURN(const auto listener, comm::GlooListener::Listen(shape, rank, 1, "127.0.0.1", abort));
  WriteMessage(listener->address());
  std::vector<std::string> addresses(shape.tp * shape.pp);
  for (std::string& address : addresses) SHOAL_RETURN_IF_ERROR(ReadMessage(&address));
  return listener->Connect(addresses, 60 * kSecond);
}

absl::Status Run(const std::string& model_path, const std::string& table, int tp, int pp, int rank, int fd, bool gloo) {
  SHOAL_ASSIGN_OR_RETURN(const model::ModelFiles files, model::OpenModel(model_path));
  SHOAL_ASSIGN_OR_RETURN(const auto shards, LoadShards({files.config, files.checkpoint}, tp, pp, table, false));
  const comm::GroupShape shape = ProcessShape(files.config.hidden, tp, pp);
  const size_t bytes = SegmentBytes(shape);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return absl::InternalError("mmap");
  auto* pages = static_cast<rank::ControlPage*>(memory);
  rank::ControlPage& page = pages[rank];
  const std::span<std::byte> channels(reinterpret_cast<std::byte*>(pages + tp * pp), comm::ShmSegmentBytes(shape));
  SHOAL_ASSIGN_OR_RETURN(comm::RankComm comm, gloo ? ConnectGloo(shape, rank, &page.abort)
                                                   : comm::MakeShmRank(shape, rank, 1, channels, &page.abort));

  const plan::MirrorLimits limits = ProcessLimits(files.config.vocab);
  const plan::RankShard& shard = shards->plan.ranks[rank];
  const kv::KvShape kv_shape = kv::MakeKvShape(shard, files.config, DType::kF16, limits.block_size, limits.blocks);
  const Memory kv = MakeMemory(kv::RegionBytes(kv_shape), 0xff);
  const auto device = device::MakeHostDevice(shards->table, 1);
  const RealClock clock;
  StdinPlans plans;
  rank::EngineParts parts;
  parts.rank = rank;
  parts.shard = shard;
  parts.tp = tp;
  parts.pp = pp;
  parts.limits = limits;
  parts.device = device.get();
  parts.kv = kv::MakeLayers(kv_shape, {kv.get(), static_cast<size_t>(kv::RegionBytes(kv_shape))});
  graph::OperationLog operations(&page.operation, &device->stream());
  const graph::DecoderOptions options = {limits.max_tokens, limits.max_sequences, limits.max_model_len};
  SHOAL_ASSIGN_OR_RETURN(parts.decoder,
                         graph::Decoder::Create(files.config, shard, options, device.get(), &shards->weights[rank],
                                                parts.kv, comm.tensor.get(), &operations));
  parts.comm = &comm;
  parts.plans = &plans;
  parts.page = &page;
  parts.operations = &operations;
  parts.clock = &clock;
  parts.on_result = [](plan::StepResult result) {
    WriteMessage(plan::EncodeResult(result));
    return absl::OkStatus();
  };
  return rank::RunEngine(std::move(parts));
}

}  // namespace
}  // namespace shoal::testing

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const absl::Status status =
      shoal::testing::Run(argv[1], argv[2], std::atoi(argv[3]), std::atoi(argv[4]), std::atoi(argv[5]),
                          std::atoi(argv[6]), argv[7] == std::string("gloo"));
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  if (absl::IsUnavailable(status)) return 8;
  return absl::IsAborted(status) ? 7 : 1;
}
