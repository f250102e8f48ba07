// How ranks on devices find each other through their agent: addresses in the result rings, those of all in the plan
// rings, and channels that carry data. The ranks are threads with emulated devices; the test is their agent.
#include "worker/rank/process_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <future>
#include <memory>
#include <thread>

#include "common/base/clock.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "tests/comm/nccl_group.h"

namespace shoal::rank {
namespace {

using ::testing::HasSubstr;

constexpr size_t kRingBytes = 1 << 18;
constexpr plan::Stamp kStamp = {5, 77, 0};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<void, Free>;
std::span<std::byte> Span(const Block& block) { return {static_cast<std::byte*>(block.get()), kRingBytes}; }
Block ZeroBlock() {
  Block block(std::aligned_alloc(64, kRingBytes));
  std::memset(block.get(), 0, kRingBytes);
  return block;
}

// One rank's process, as far as it comes to its channels, with its agent's ends.
class Rank {
 public:
  Rank(int rank, int tp, const std::string& transport)
      : to_rank_(plan::RingWriter::Create(Span(plans_)).value()),
        plan_reader_(plan::RingReader::Attach(Span(plans_), to_rank_.AttachReader().value()).value()),
        result_writer_(plan::RingWriter::Create(Span(results_)).value()),
        from_rank_(plan::RingReader::Attach(Span(results_), result_writer_.AttachReader().value()).value()) {
    setup_.rank = rank;
    setup_.tp = tp;
    setup_.epoch = kStamp.epoch;
    setup_.coordinator = kStamp.incarnation;
    setup_.engine.transport = transport;
    setup_.engine.device = "cuda";
  }

  absl::StatusOr<comm::RankComm> Open(const DeviceParts& device) {
    const comm::GroupShape shape = {.tp = setup_.tp, .pp = 1, .max_activation_bytes = 64, .max_samples = 2};
    return OpenChannels(setup_, shape, {}, plan_reader_, result_writer_, &page_, device);
  }
  // As the agent does it: the state says that the address is in the ring.
  std::string Address() {
    const auto connecting = static_cast<uint32_t>(plan::RankState::kConnecting);
    for (const TimeNs end = clock_.Now() + 30 * kSecond; page_.state.load(std::memory_order_acquire) != connecting;) {
      if (clock_.Now() > end) {
        ADD_FAILURE() << "the rank did not come to its address";
        return "";
      }
      std::this_thread::yield();
    }
    const auto record = from_rank_.Next(0, nullptr);
    EXPECT_TRUE(record.ok() && record->kind == plan::RecordKind::kAddress) << record.status();
    return record.ok() ? record->payload : "";
  }
  void Tell(const plan::ConnectRanks& connect) {
    EXPECT_TRUE(to_rank_.Append(plan::RecordKind::kConnect, kStamp, plan::EncodeConnect(connect)).ok());
  }

 private:
  const Block plans_ = ZeroBlock(), results_ = ZeroBlock();
  plan::RankSetup setup_;
  const RealClock clock_;
  ControlPage page_;
  plan::RingWriter to_rank_;
  plan::RingReader plan_reader_;
  plan::RingWriter result_writer_;
  plan::RingReader from_rank_;
};

absl::StatusOr<float> SumOverRanks(Rank& rank, float mine, comm::NcclWorld& world) {
  const auto nccl = comm::MakeEmulatedNccl(&world);
  const auto device = comm::MakeTestAccelerator();
  SHOAL_ASSIGN_OR_RETURN(comm::RankComm channels, rank.Open({device.get(), nccl.get()}));
  SHOAL_ASSIGN_OR_RETURN(void* const data, device->Allocate(sizeof(uint16_t)));
  SHOAL_ASSIGN_OR_RETURN(void* const pinned, device->AllocatePinned(sizeof(uint16_t)));
  auto* const half = static_cast<uint16_t*>(pinned);
  *half = F32ToBF16(mine);
  SHOAL_RETURN_IF_ERROR(device->CopyIn(data, pinned, sizeof(uint16_t)));
  SHOAL_RETURN_IF_ERROR(channels.tensor->AllReduceSum(ops::Acts(data), 1));
  SHOAL_RETURN_IF_ERROR(device->CopyOut(pinned, data, sizeof(uint16_t)));
  SHOAL_RETURN_IF_ERROR(comm::AwaitDevice(channels, *device));
  return BF16ToF32(*half);
}

TEST(OpenChannels, RanksOnDevicesMeetThroughTheirAgent) {
  comm::NcclWorld world;
  Rank first(0, 2, "nccl"), second(1, 2, "nccl");
  auto sum = std::async(std::launch::async, [&] { return SumOverRanks(first, 3, world); });
  auto other = std::async(std::launch::async, [&] { return SumOverRanks(second, 4, world); });
  plan::ConnectRanks connect;
  connect.epoch = kStamp.epoch;
  for (Rank* rank : {&first, &second}) {
    plan::RankAddress address;
    address.rank = static_cast<int32_t>(connect.ranks.size());
    address.bytes = rank->Address();
    connect.ranks.push_back(address);
  }
  for (Rank* rank : {&first, &second}) rank->Tell(connect);
  const auto got = sum.get(), also = other.get();
  ASSERT_TRUE(got.ok() && also.ok()) << got.status() << also.status();
  EXPECT_EQ(*got, 7);
  EXPECT_EQ(*also, 7);
}

TEST(OpenChannels, NcclIsForRanksOnADevice) {
  Rank rank(0, 1, "nccl");
  const absl::Status status = rank.Open({}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("transport nccl is for ranks on CUDA"));
}

}  // namespace
}  // namespace shoal::rank
