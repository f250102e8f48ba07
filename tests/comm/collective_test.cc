// The tensor channel over every transport: exact sums, columns in their places, and ranks that disagree.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "tests/comm/group.h"

namespace shoal::comm {
namespace {

// Magnitudes over 2^24: the order of a sum shows in its bits.
float Value(int rank, int operation, size_t i) {
  const uint64_t bits = RandomBits(rank, operation, i);
  return std::ldexp(static_cast<float>(bits >> 40) - 8388608.0f, static_cast<int>(bits % 24) - 24);
}

std::vector<float> Values(int rank, int operation, size_t n) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = Value(rank, operation, i);
  return v;
}

// What is summed: as a device stores it, where it is one. The first two ranks nearly cancel out here and there, so that
// the order shows even in a sum that is rounded.
std::vector<float> Summands(TestTransport t, int rank, int operation, size_t n) {
  std::vector<float> v = Values(rank, operation, n);
  for (size_t i = 0; i < n; ++i) {
    if (rank == 1 && i % 5 == 0) v[i] = -Value(0, operation, i);
    if (OnDevice(t)) v[i] = BF16ToF32(F32ToBF16(v[i]));
  }
  return v;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> OrderedSum(TestTransport t, int ranks, int operation, size_t n, bool backwards = false) {
  std::vector<float> sum = Summands(t, backwards ? ranks - 1 : 0, operation, n);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<float> part = Summands(t, backwards ? ranks - 1 - r : r, operation, n);
    for (size_t i = 0; i < n; ++i) sum[i] += part[i];
  }
  for (float& x : sum) {
    if (OnDevice(t)) x = BF16ToF32(F32ToBF16(x));
  }
  return sum;
}

class CollectiveTest : public testing::TestWithParam<std::tuple<TestTransport, int>> {
 protected:
  TestTransport transport() const { return std::get<0>(GetParam()); }
  int tp() const { return std::get<1>(GetParam()); }
  GroupShape shape() const { return {.tp = tp(), .pp = 1, .max_activation_bytes = 1 << 16, .max_samples = 4}; }
};

// 4,096 floats are the last one-shot on a host, 16,384 fill one slot of this shape. On a device it is 262,144 bf16, and
// over peer memory of two ranks twice as many.
std::vector<size_t> Sizes(TestTransport t) {
  if (t == TestTransport::kPeer) return {1, 7, 4096, 4099, 262144, 262145, 524288, 524289};
  if (OnDevice(t)) return {1, 7, 4096, 262144, 262145, 262144 + 96, 300001};
  return {1, 7, 2048, 4096, 4097, 16384, 16385, 70001};
}

TEST_P(CollectiveTest, SumsInRankOrderToTheBit) {
  TestGroup group(shape(), transport());
  for (size_t n : Sizes(transport())) {
    std::vector<std::vector<float>> data(tp());
    const auto results = group.Run([&](int r) {
      data[r] = Summands(transport(), r, 3, n);
      return group.rank(r).tensor->AllReduceSum(data[r]);
    });
    const std::vector<float> expected = OrderedSum(transport(), tp(), 3, n);
    for (int r = 0; r < tp(); ++r) {
      ASSERT_TRUE(results[r].ok()) << results[r];
      EXPECT_TRUE(SameBits(data[r], expected)) << n << " floats, rank " << r;
    }
    // The inputs are such that another order would show.
    if (tp() > 2 && n > 1000) {
      EXPECT_FALSE(SameBits(expected, OrderedSum(transport(), tp(), 3, n, true)));
    }
  }
}

TEST_P(CollectiveTest, GathersUnevenColumns) {
  TestGroup group(shape(), transport());
  const std::vector<int32_t> all = {320, 64, 4000, 32};
  const std::vector<int32_t> widths(all.begin(), all.begin() + tp());
  int total = 0;
  for (int32_t w : widths) total += w;
  const int stride = total + 5;
  for (int rows : {0, 1, 2, 17}) {
    std::vector<float> dst(static_cast<size_t>(rows) * stride, -1.0f);
    const auto results = group.Run([&](int r) {
      const std::vector<float> part = Values(r, rows, static_cast<size_t>(rows) * widths[r]);
      return group.rank(r).tensor->GatherColumns(part, rows, widths, r == 0 ? dst.data() : nullptr, stride);
    });
    for (const auto& s : results) ASSERT_TRUE(s.ok()) << s;
    for (int row = 0; row < rows; ++row) {
      int column = 0;
      for (int r = 0; r < tp(); ++r) {
        for (int c = 0; c < widths[r]; ++c, ++column) {
          ASSERT_EQ(dst[row * stride + column], Value(r, rows, static_cast<size_t>(row) * widths[r] + c));
        }
      }
      for (; column < stride; ++column) ASSERT_EQ(dst[row * stride + column], -1.0f);
    }
  }
}

// Sums and gathers of many sizes in one stream, without any pause in between: slots are reused only when read.
TEST_P(CollectiveTest, ManyOperationsInARow) {
  TestGroup group(shape(), transport());
  constexpr int kOperations = 300;
  const std::vector<int32_t> widths(tp(), 96);
  const auto results = group.Run([&](int r) -> absl::Status {
    std::vector<float> dst(4 * 96 * tp());
    for (int op = 0; op < kOperations; ++op) {
      const uint64_t bits = RandomBits(99, 0, op);
      if (bits % 3 == 0) {
        const std::vector<float> part = Values(r, op, 4 * 96);
        SHOAL_RETURN_IF_ERROR(group.rank(r).tensor->GatherColumns(part, 4, widths, dst.data(), 96 * tp()));
        if (r == 0 && dst[96 * tp() - 1] != Value(tp() - 1, op, 95)) return absl::DataLossError("gathered");
      } else {
        const size_t n = 1 + (bits >> 8) % (bits % 3 == 1 ? 500 : 9000);
        std::vector<float> data = Summands(transport(), r, op, n);
        SHOAL_RETURN_IF_ERROR(group.rank(r).tensor->AllReduceSum(data));
        if (!SameBits(data, OrderedSum(transport(), tp(), op, n))) return absl::DataLossError("summed");
      }
    }
    return absl::OkStatus();
  });
  for (const auto& s : results) EXPECT_TRUE(s.ok()) << s;
}

TEST_P(CollectiveTest, RanksThatDisagreeAreTold) {
  if (tp() == 1) GTEST_SKIP() << "nobody to disagree with";
  if (OnDevice(transport())) GTEST_SKIP() << "nobody tells them";
  for (bool other_kind : {false, true}) {
    TestGroup group(shape(), transport());
    const std::vector<int32_t> widths(tp(), 32);
    const auto results = group.Run([&](int r) {
      std::vector<float> data(r == 0 ? 64 : 32);
      if (other_kind && r == 0) {
        std::vector<float> part(32), dst(32 * tp());
        return group.rank(0).tensor->GatherColumns(part, 1, widths, dst.data(), 32 * tp());
      }
      return group.rank(r).tensor->AllReduceSum(data);
    });
    for (const auto& s : results) EXPECT_EQ(s.code(), absl::StatusCode::kInternal) << s;
  }
}

TEST_P(CollectiveTest, CountsWhatItPutsOnTheTransport) {
  TestGroup group(shape(), transport());
  const auto results = group.Run([&](int r) {
    std::vector<float> data(1024, 1.0f);
    return group.rank(r).tensor->AllReduceSum(data);
  });
  for (int r = 0; r < tp(); ++r) {
    ASSERT_TRUE(results[r].ok());
    for (const Transport t :
         {Transport::kLocal, Transport::kShm, Transport::kGloo, Transport::kNccl, Transport::kPeer}) {
      const SentBytes& sent = group.rank(r).stats->over(t);
      const bool device = t == Transport::kNccl || t == Transport::kPeer, wire = device || t == Transport::kGloo;
      const int copies = wire ? tp() - 1 : 1;  // memory is written once for all, a wire is for one
      const int bytes = device ? 2048 : 4096;
      EXPECT_EQ(sent.tensor, tp() == 1 || t != Carrier(transport()) ? 0 : bytes * copies);
      EXPECT_EQ(sent.activation, 0);
      EXPECT_EQ(sent.token, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CollectiveTest,
                         testing::Combine(testing::ValuesIn(kHostAndDeviceTransports), testing::Values(1, 2, 3, 4)),
                         [](const auto& info) {
                           return TransportName(std::get<0>(info.param)) + std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace shoal::comm
