#include "tests/comm/nccl_group.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <numeric>
#include <thread>

#include "common/base/check.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/table.h"

namespace shoal::comm {
namespace {

// Device memory and pinned memory beside it, both grown as needed.
class Bridge {
 public:
  Bridge(RankComm& comm, ops::Accelerator& accelerator) : comm_(comm), accelerator_(accelerator) {}
  ~Bridge() { Free(); }

  template <typename T>
  T* device() const {
    return static_cast<T*>(device_);
  }
  // `data` there, or so much room.
  absl::Status Put(const void* data, size_t bytes) {
    SHOAL_RETURN_IF_ERROR(Room(bytes));
    if (bytes == 0) return absl::OkStatus();
    std::memcpy(pinned_, data, bytes);
    return accelerator_.CopyIn(device_, pinned_, bytes);
  }
  absl::Status Room(size_t bytes) {
    if (bytes <= bytes_) return absl::OkStatus();
    SHOAL_RETURN_IF_ERROR(AwaitDevice(comm_, accelerator_));
    Free();
    SHOAL_ASSIGN_OR_RETURN(device_, accelerator_.Allocate(bytes));
    SHOAL_ASSIGN_OR_RETURN(pinned_, accelerator_.AllocatePinned(bytes));
    bytes_ = bytes;
    return absl::OkStatus();
  }
  absl::Status Get(void* data, size_t bytes) {
    if (bytes > 0) SHOAL_RETURN_IF_ERROR(accelerator_.CopyOut(pinned_, device_, bytes));
    SHOAL_RETURN_IF_ERROR(AwaitDevice(comm_, accelerator_));
    if (bytes > 0) std::memcpy(data, pinned_, bytes);
    return absl::OkStatus();
  }
  absl::Status Wait() { return AwaitDevice(comm_, accelerator_); }

 private:
  void Free() {
    if (bytes_ == 0) return;
    // An aborted operation may still be there.
    if (!accelerator_.Synchronise().ok()) return;
    accelerator_.Free(device_);
    accelerator_.FreePinned(pinned_);
    bytes_ = 0;
  }

  RankComm& comm_;
  ops::Accelerator& accelerator_;
  void* device_ = nullptr;
  void* pinned_ = nullptr;
  size_t bytes_ = 0;
};

class HostTensor final : public TensorChannel {
 public:
  HostTensor(RankComm& comm, ops::Accelerator& accelerator)
      : comm_(comm), data_(comm, accelerator), whole_(comm, accelerator) {}
  int size() const override { return comm_.tensor->size(); }
  int index() const override { return comm_.tensor->index(); }

  absl::Status AllReduceSum(ops::Acts data, int64_t count) override {
    std::vector<uint16_t> half(static_cast<size_t>(count));
    auto* const values = data.as<float>();
    std::transform(values, values + count, half.begin(), F32ToBF16);
    SHOAL_RETURN_IF_ERROR(data_.Put(half.data(), half.size() * sizeof(uint16_t)));
    SHOAL_RETURN_IF_ERROR(comm_.tensor->AllReduceSum(ops::Acts(data_.device<void>()), count));
    SHOAL_RETURN_IF_ERROR(data_.Get(half.data(), half.size() * sizeof(uint16_t)));
    std::transform(half.begin(), half.end(), values, BF16ToF32);
    return absl::OkStatus();
  }

  absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                             int64_t stride) override {
    SHOAL_RETURN_IF_ERROR(data_.Put(part.data(), part.size_bytes()));
    const std::span<const float> on_device(data_.device<float>(), part.size());
    if (index() != 0) {
      SHOAL_RETURN_IF_ERROR(comm_.tensor->GatherColumns(on_device, rows, widths, nullptr, stride));
      return data_.Wait();
    }
    const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(stride) * sizeof(float);
    SHOAL_RETURN_IF_ERROR(whole_.Put(dst, bytes));
    SHOAL_RETURN_IF_ERROR(comm_.tensor->GatherColumns(on_device, rows, widths, whole_.device<float>(), stride));
    return whole_.Get(dst, bytes);
  }

 private:
  RankComm& comm_;
  Bridge data_, whole_;
};

class HostSender final : public StageSender {
 public:
  HostSender(RankComm& comm, ops::Accelerator& accelerator) : comm_(comm), data_(comm, accelerator) {}
  absl::Status Send(std::span<const std::byte> data) override {
    SHOAL_RETURN_IF_ERROR(data_.Put(data.data(), data.size()));
    SHOAL_RETURN_IF_ERROR(comm_.next->Send({data_.device<std::byte>(), data.size()}));
    return data_.Wait();
  }

 private:
  RankComm& comm_;
  Bridge data_;
};

class HostReceiver final : public StageReceiver {
 public:
  HostReceiver(RankComm& comm, ops::Accelerator& accelerator) : comm_(comm), data_(comm, accelerator) {}
  absl::Status Receive(std::span<std::byte> data) override {
    SHOAL_RETURN_IF_ERROR(data_.Room(data.size()));
    SHOAL_RETURN_IF_ERROR(comm_.previous->Receive({data_.device<std::byte>(), data.size()}));
    return data_.Get(data.data(), data.size());
  }

 private:
  RankComm& comm_;
  Bridge data_;
};

class HostMailbox final : public TokenMailbox {
 public:
  HostMailbox(RankComm& comm, ops::Accelerator& accelerator) : comm_(comm), data_(comm, accelerator) {}
  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    SHOAL_RETURN_IF_ERROR(data_.Put(tokens.data(), tokens.size_bytes()));
    SHOAL_RETURN_IF_ERROR(comm_.mailbox_out->Post(step, {data_.device<int32_t>(), tokens.size()}));
    return data_.Wait();
  }
  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    SHOAL_RETURN_IF_ERROR(data_.Room(tokens.size_bytes()));
    SHOAL_RETURN_IF_ERROR(comm_.mailbox_in->Take(step, {data_.device<int32_t>(), tokens.size()}));
    return data_.Get(tokens.data(), tokens.size_bytes());
  }

 private:
  RankComm& comm_;
  Bridge data_;
};

}  // namespace

std::unique_ptr<ops::Accelerator> MakeTestAccelerator(cuda::emulated::Pace pace) {
  return cuda::MakeEmulatedAccelerator({.table = &cuda::Table(), .pace = pace});
}

NcclGroup::NcclGroup(const GroupShape& shape, std::span<const AbortFlag* const> abort, cuda::emulated::Pace pace,
                     AllReducePolicy all_reduce) {
  Connect(shape, abort,
          {.accelerator = [pace](int) { return MakeTestAccelerator(pace); },
           .library = [this](int) { return libraries_.emplace_back(MakeEmulatedNccl(&world_)).get(); },
           .all_reduce = all_reduce});
}

void NcclGroup::Connect(const GroupShape& shape, std::span<const AbortFlag* const> abort, const NcclMaker& maker) {
  std::vector<std::unique_ptr<NcclRendezvous>> rendezvous;
  std::vector<std::string> addresses;
  for (int r = 0; r < shape.tp * shape.pp; ++r) {
    accelerators_.push_back(maker.accelerator(r));
    auto opened = NcclRendezvous::Open({.api = maker.library(r),
                                        .accelerator = accelerators_.back().get(),
                                        .shape = shape,
                                        .rank = r,
                                        .generation = 7,
                                        .abort = abort[static_cast<size_t>(r)],
                                        .all_reduce = maker.all_reduce});
    SHOAL_CHECK(opened.ok());
    addresses.push_back((*opened)->address());
    rendezvous.push_back(*std::move(opened));
  }
  std::vector<std::future<absl::StatusOr<RankComm>>> connecting;
  for (auto& one : rendezvous) {
    connecting.push_back(std::async(std::launch::async, [&] { return one->Connect(addresses, 30 * kSecond); }));
  }
  for (auto& rank : connecting) {
    auto connected = rank.get();
    SHOAL_CHECK(connected.ok());
    ranks_.push_back(*std::move(connected));
  }
}

absl::Status AwaitDevice(const RankComm& comm, ops::Accelerator& accelerator) {
  SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, accelerator.Mark());
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const bool reached, accelerator.Reached(mark));
    if (reached) return absl::OkStatus();
    const absl::Status well = comm.watch->Poll();
    if (!well.ok()) {
      comm.watch->Abort();
      return well;
    }
    std::this_thread::yield();
  }
}

RankComm OnHost(RankComm& device, ops::Accelerator& accelerator) {
  RankComm host;
  host.tensor = std::make_unique<HostTensor>(device, accelerator);
  if (device.next != nullptr) host.next = std::make_unique<HostSender>(device, accelerator);
  if (device.previous != nullptr) host.previous = std::make_unique<HostReceiver>(device, accelerator);
  if (device.mailbox_out != nullptr) host.mailbox_out = std::make_unique<HostMailbox>(device, accelerator);
  if (device.mailbox_in != nullptr) host.mailbox_in = std::make_unique<HostMailbox>(device, accelerator);
  host.stats = device.stats;
  host.watch = device.watch;
  return host;
}

}  // namespace shoal::comm
