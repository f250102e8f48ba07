// A host's channels for ranks whose data lie on a device (here: emulated).
#include "worker/comm/staged.h"

#include <gtest/gtest.h>

#include <numeric>

#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "tests/comm/group.h"

namespace shoal::comm {
namespace {

// Four ranks, 2x2, each with a device.
class StagedTest : public ::testing::Test {
 protected:
  StagedTest() : group_({.tp = 2, .pp = 2, .max_activation_bytes = 1 << 16, .max_samples = 8}, TestTransport::kLocal) {
    for (int r = 0; r < 4; ++r) {
      devices_.push_back(
          device::MakeAcceleratorDevice(
              cuda::MakeEmulatedAccelerator({.table = &cuda::Table(), .pace = cuda::emulated::Pace::kLazy}), 4 << 10)
              .value());
      group_.rank(r) = MakeStaged(std::move(group_.rank(r)), devices_.back().get());
    }
  }
  ~StagedTest() override {
    for (device::Memory& m : memory_) m = device::Memory();
  }

  // `values` on the device of rank r.
  template <typename T>
  T* On(int r, const std::vector<T>& values) {
    device::Memory& memory = memory_[r] = devices_[r]->Allocate(std::max<size_t>(values.size() * sizeof(T), 1)).value();
    EXPECT_TRUE(devices_[r]->Upload(memory.data(), values.data(), values.size() * sizeof(T)).ok());
    return memory.as<T>();
  }
  template <typename T>
  std::vector<T> Read(int r, const T* from, size_t count) {
    std::vector<T> values(count);
    EXPECT_TRUE(devices_[r]->Download(values.data(), from, count * sizeof(T)).ok());
    return values;
  }
  void ExpectAllOk(const std::vector<absl::Status>& statuses) {
    for (const absl::Status& s : statuses) EXPECT_TRUE(s.ok()) << s;
  }

  TestGroup group_;
  std::vector<std::unique_ptr<device::Device>> devices_;
  device::Memory memory_[4];
};

TEST_F(StagedTest, SumsAreOfBf16InRankOrderRoundedOnce) {
  constexpr size_t kCount = 5000;
  std::vector<std::vector<uint16_t>> parts(4, std::vector<uint16_t>(kCount));
  for (int r = 0; r < 4; ++r) {
    for (size_t i = 0; i < kCount; ++i) {
      parts[r][i] = F32ToBF16(static_cast<float>(RandomBits(r, 1, i) % 2000) / 700.0f - 1.4f);
    }
  }
  uint16_t* data[4];
  for (int r = 0; r < 4; ++r) data[r] = On(r, parts[r]);
  ExpectAllOk(group_.Run(
      [&](int r) { return group_.rank(r).tensor->AllReduceSum(ops::Acts(static_cast<void*>(data[r])), kCount); }));
  for (int r = 0; r < 4; ++r) {
    const int first = r / 2 * 2;
    std::vector<uint16_t> expected(kCount);
    for (size_t i = 0; i < kCount; ++i) {
      expected[i] = F32ToBF16(BF16ToF32(parts[first][i]) + BF16ToF32(parts[first + 1][i]));
    }
    EXPECT_EQ(Read(r, data[r], kCount), expected) << "rank " << r;
  }
}

TEST_F(StagedTest, ColumnsAreGatheredAndWhatLiesBehindThemStays) {
  constexpr int kRows = 3;
  const std::vector<int32_t> widths = {5, 2};
  constexpr int kStride = 9;
  std::vector<float> part[2] = {std::vector<float>(kRows * 5), std::vector<float>(kRows * 2)};
  std::iota(part[0].begin(), part[0].end(), 100.0f);
  std::iota(part[1].begin(), part[1].end(), 200.0f);
  float* const own[2] = {On(2, part[0]), On(3, part[1])};
  device::Memory gathered = devices_[2]->Allocate(kRows * kStride * sizeof(float)).value();
  const std::vector<float> before(kRows * kStride, -1.0f);
  ASSERT_TRUE(devices_[2]->Upload(gathered.data(), before.data(), before.size() * sizeof(float)).ok());
  ExpectAllOk(group_.Run([&](int r) {
    if (r < 2) return absl::OkStatus();
    const std::span<const float> mine(own[r - 2], part[r - 2].size());
    return group_.rank(r).tensor->GatherColumns(mine, kRows, widths, r == 2 ? gathered.as<float>() : nullptr, kStride);
  }));
  const std::vector<float> got = Read(2, gathered.as<float>(), kRows * kStride);
  for (int row = 0; row < kRows; ++row) {
    for (int c = 0; c < kStride; ++c) {
      const float expected = c < 5 ? part[0][row * 5 + c] : c < 7 ? part[1][row * 2 + c - 5] : -1.0f;
      EXPECT_EQ(got[row * kStride + c], expected) << row << " " << c;
    }
  }
}

TEST_F(StagedTest, ActivationsAndTokensPassInOrder) {
  std::vector<int32_t> sent(3000), tokens = {4, -1, 6};
  std::iota(sent.begin(), sent.end(), 7);
  int32_t* const from = On(0, sent);
  int32_t* const to = On(2, std::vector<int32_t>(sent.size(), 0));
  device::Memory on_sampler = devices_[2]->Allocate(64).value();
  ASSERT_TRUE(devices_[2]->Upload(on_sampler.data(), tokens.data(), 12).ok());
  device::Memory taken[2] = {devices_[0]->Allocate(64).value(), devices_[1]->Allocate(64).value()};
  ExpectAllOk(group_.Run([&](int r) -> absl::Status {
    comm::RankComm& comm = group_.rank(r);
    if (r == 0) {
      for (int i = 0; i < 2; ++i) {
        const absl::Status s = comm.next->Send(std::as_bytes(std::span(from, sent.size())));
        if (!s.ok()) return s;
      }
    }
    if (r == 2) {
      for (int i = 0; i < 2; ++i) {
        const absl::Status s = comm.previous->Receive(std::as_writable_bytes(std::span(to, sent.size())));
        if (!s.ok()) return s;
      }
      return comm.mailbox_out->Post(1, {on_sampler.as<int32_t>(), tokens.size()});
    }
    if (r < 2) return comm.mailbox_in->Take(1, {taken[r].as<int32_t>(), tokens.size()});
    return absl::OkStatus();
  }));
  EXPECT_EQ(Read(2, to, sent.size()), sent);
  for (int r = 0; r < 2; ++r) EXPECT_EQ(Read(r, taken[r].as<int32_t>(), tokens.size()), tokens);
}

}  // namespace
}  // namespace shoal::comm
