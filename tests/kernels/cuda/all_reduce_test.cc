// The one-shot all-reduce: bits as sum_ranks has them, however far ranks are apart, also when it is recorded, and the
// end of a wait for a rank that never comes. Ranks are threads; what they share is memory of this process.
#include "kernels/cuda/all_reduce.h"

#include <atomic>
#include <thread>

#include "common/base/rng.h"
#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/sum_ranks.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::kAllReduceBlocks;
using ops::kAllReduceMaxBytes;

// The areas of a group and what each rank has beside them, zeroed.
class Areas {
 public:
  explicit Areas(int ranks) : ranks_(ranks), rounds_(static_cast<size_t>(ranks) * kAllReduceBlocks) {
    std::memset(rounds_.data(), 0, rounds_.size() * sizeof(uint32_t));
    for (int r = 0; r < ranks; ++r) {
      areas_.push_back(std::make_unique<Buffer<uint8_t>>(ops::kAllReduceAreaBytes));
      std::memset(areas_.back()->data(), 0, ops::kAllReduceSlotsAt);  // flags; the slots begin as NaN
    }
  }
  int ranks() const { return ranks_; }
  uint32_t* rounds(int rank) { return rounds_.data() + rank * kAllReduceBlocks; }
  // As if so many rounds had been.
  void Begin(uint32_t round) {
    for (int r = 0; r < ranks_; ++r) {
      std::fill_n(rounds(r), kAllReduceBlocks, round);
      for (int b = 0; b < kAllReduceBlocks; ++b) {
        auto* flags = reinterpret_cast<uint32_t*>(areas_[static_cast<size_t>(r)]->data() + b * ops::kAllReduceFlagLine);
        std::fill_n(flags, ops::kAllReduceMaxRanks, round);
      }
    }
  }
  void Abort() { std::atomic_ref<uint32_t>(abort_).store(1); }

  template <typename T>
  AllReduce<T> Of(int rank, const T* x, T* y, size_t count) {
    AllReduce<T> op = {x, y, static_cast<int64_t>(count), rank, ranks_, {}, rounds(rank), &abort_};
    for (int r = 0; r < ranks_; ++r) {
      op.areas[r] = reinterpret_cast<std::byte*>(areas_[static_cast<size_t>(r)]->data());
    }
    return op;
  }

 private:
  const int ranks_;
  Buffer<uint32_t> rounds_;
  std::vector<std::unique_ptr<Buffer<uint8_t>>> areas_;
  uint32_t abort_ = 0;
};

void OnEveryRank(int ranks, const std::function<void(int)>& fn) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(fn, r);
  for (std::thread& thread : threads) thread.join();
}

// Of three and more, the first two ranks cancel out, and leave little of the others when they come last: the order of a
// sum shows even after rounding to bf16.
std::vector<float> Part(int rank, int ranks, size_t count, uint64_t seed) {
  if (ranks > 2 && rank < 2) {
    std::vector<float> x = RandomBf16(count, seed);
    for (float& v : x) v = std::ldexp(rank == 0 ? v : -v, 22);
    return x;
  }
  return RandomBf16(count, seed + static_cast<uint64_t>(rank));
}

// In rank order, in f32, rounded once.
template <typename T>
std::vector<float> Expected(int ranks, size_t count, uint64_t seed, bool backwards = false) {
  std::vector<float> sum = Part(backwards ? ranks - 1 : 0, ranks, count, seed);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<float> part = Part(backwards ? ranks - 1 - r : r, ranks, count, seed);
    for (size_t i = 0; i < count; ++i) sum[i] += part[i];
  }
  for (float& v : sum) v = ToFloat(FromFloat<T>(v));
  return sum;
}

struct Case {
  int ranks;
  size_t count;
  size_t shift = 0;  // of x and y, in elements: 1 is not aligned
};

template <typename T>
void ExpectSums(const Case& c) {
  SCOPED_TRACE(testing::Message() << c.ranks << " ranks, " << c.count << " of " << sizeof(T) << " bytes, shifted by "
                                  << c.shift);
  Areas areas(c.ranks);
  const auto ranks = static_cast<size_t>(c.ranks);
  std::vector<std::vector<float>> got(ranks);
  OnEveryRank(c.ranks, [&](int r) {
    Buffer<T> x(c.count + c.shift), y(c.count + c.shift + 1);
    const std::vector<float> part = Part(r, c.ranks, c.count, 5);
    for (size_t i = 0; i < c.count; ++i) x.data()[c.shift + i] = FromFloat<T>(part[i]);
    EXPECT_TRUE(Enqueue(nullptr, areas.Of(r, x.data() + c.shift, y.data() + c.shift, c.count)).ok());
    got[static_cast<size_t>(r)] = y.Floats();
  });
  const std::vector<float> expected = Expected<T>(c.ranks, c.count, 5);
  for (const std::vector<float>& y : got) {
    ops::ExpectSameBits(expected.data(), y.data() + c.shift, c.count);
    EXPECT_TRUE(std::isnan(y[c.count + c.shift])) << "wrote beyond the end";
  }
  if (c.ranks > 2 && c.count > 100) {
    EXPECT_NE(expected, Expected<T>(c.ranks, c.count, 5, true));
  }
}

TEST(CudaAllReduce, SumsInRankOrderAndRoundsOnce) {
  for (const auto order : {emulated::Order::kAscending, emulated::Order::kDescending, emulated::Order::kShuffled}) {
    emulated::SetOrder(order, 7);
    for (int ranks = 1; ranks <= ops::kAllReduceMaxRanks; ++ranks) {
      ExpectSums<bf16>({ranks, static_cast<size_t>(511 * ranks + 2)});
      ExpectSums<float>({ranks, static_cast<size_t>(257 * ranks + 1)});
    }
    ExpectSums<bf16>({3, 1});
    ExpectSums<bf16>({2, 2048});
    ExpectSums<bf16>({2, 4099, 1});
    ExpectSums<float>({2, 4099, 1});
  }
  emulated::SetOrder(emulated::Order::kAscending);
}

TEST(CudaAllReduce, FillsAWholeSlot) {
  ExpectSums<bf16>({2, kAllReduceMaxBytes / sizeof(bf16)});
  ExpectSums<float>({2, kAllReduceMaxBytes / sizeof(float) - 3});
}

TEST(CudaAllReduce, HasTheBitsOfSumRanks) {
  constexpr int kRanks = 4;
  constexpr size_t kCount = 5003;
  Areas areas(kRanks);
  std::vector<float> all;
  for (int r = 0; r < kRanks; ++r) {
    const std::vector<float> part = Part(r, kRanks, kCount, 9);
    all.insert(all.end(), part.begin(), part.end());
  }
  Buffer<bf16> parts(all), sums(kCount);
  ASSERT_TRUE(Enqueue(nullptr, SumRanks{parts.data(), kCount, sums.data(), kCount, kRanks}).ok());
  OnEveryRank(kRanks, [&](int r) {
    bf16* const data = parts.data() + static_cast<size_t>(r) * kCount;  // in place; of odd ranks not aligned
    EXPECT_TRUE(Enqueue(nullptr, areas.Of<bf16>(r, data, data, kCount)).ok());
    EXPECT_EQ(std::memcmp(data, sums.data(), kCount * sizeof(bf16)), 0) << "rank " << r;
  });
}

// Back to back, of all sizes, with ranks that are ahead of the others by turns: a slot is written again only when all
// have read it. The count of rounds goes through its end.
TEST(CudaAllReduce, ManyRoundsAtAnyPace) {
  constexpr int kRanks = 3, kRounds = 400;
  Areas areas(kRanks);
  areas.Begin(UINT32_MAX - kRounds / 2);
  std::atomic<int> wrong = 0;
  OnEveryRank(kRanks, [&](int r) {
    for (uint64_t round = 0; round < kRounds; ++round) {
      const size_t count = 1 + RandomBits(1, 0, round) % (round % 8 == 0 ? 9000 : 300);
      const auto seed = 100 + round;
      Buffer<bf16> data(Part(r, kRanks, count, seed));
      for (uint64_t pause = RandomBits(2, static_cast<uint64_t>(r), round) % 40; pause > 20; --pause) {
        std::this_thread::yield();
      }
      if (!Enqueue(nullptr, areas.Of<bf16>(r, data.data(), data.data(), count)).ok()) ++wrong;
      if (data.Floats() != Expected<bf16>(kRanks, count, seed)) ++wrong;
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_LT(areas.rounds(0)[0], uint32_t{kRounds}) << "the count came around";
}

// Nobody comes, and nobody will: the abort word ends the wait, and that of every later operation.
TEST(CudaAllReduce, AnAbortEndsTheWait) {
  Areas areas(2);
  Buffer<bf16> data(Part(0, 2, 5000, 1));
  std::thread aborter([&] {
    // The first flag that rank 0 raises with rank 1: its block waits now.
    auto* flag = reinterpret_cast<uint32_t*>(areas.Of<bf16>(0, nullptr, nullptr, 0).areas[1]);
    while (std::atomic_ref<uint32_t>(*flag).load() == 0) std::this_thread::yield();
    areas.Abort();
  });
  EXPECT_TRUE(Enqueue(nullptr, areas.Of<bf16>(0, data.data(), data.data(), data.size())).ok());
  aborter.join();
  EXPECT_TRUE(Enqueue(nullptr, areas.Of<bf16>(0, data.data(), data.data(), data.size())).ok());
  EXPECT_EQ(areas.rounds(0)[0], 2u);
}

// What is recorded counts on by itself.
TEST(CudaAllReduce, IsRecordedOnceAndLaunchedAgain) {
  constexpr int kRanks = 2, kLaunches = 9;
  constexpr size_t kCount = 700;
  Areas areas(kRanks);
  const auto make = [] { return MakeEmulatedAccelerator({.table = &Table()}); };
  OnEveryRank(kRanks, [&](int r) {
    const auto device = make();
    auto* const data = static_cast<bf16*>(device->Allocate(kCount * sizeof(bf16)).value());
    auto* const pinned = static_cast<bf16*>(device->AllocatePinned(kCount * sizeof(bf16)).value());
    const AllReduce<bf16> op = areas.Of<bf16>(r, data, data, kCount);
    ops::AllReduceArgs args = {.x = ops::ConstActs(static_cast<const void*>(data)),
                               .y = ops::Acts(static_cast<void*>(data)),
                               .count = kCount,
                               .rank = r,
                               .ranks = kRanks,
                               .areas = {op.areas[0], op.areas[1]},
                               .rounds = op.rounds,
                               .abort = op.abort};
    ASSERT_TRUE(device->BeginCapture().ok());
    EXPECT_TRUE(device->table().all_reduce(device->stream(), args).ok());
    EXPECT_TRUE(device->table().all_reduce(device->stream(), args).ok());  // twice the sum of all
    const auto graph = device->EndCapture().value();
    for (uint64_t launch = 0; launch < kLaunches; ++launch) {
      const std::vector<float> part = Part(r, kRanks, kCount, launch);
      for (size_t i = 0; i < kCount; ++i) pinned[i] = FromFloat<bf16>(part[i]);
      EXPECT_TRUE(device->CopyIn(data, pinned, kCount * sizeof(bf16)).ok());
      EXPECT_TRUE(device->Launch(*graph).ok());
      EXPECT_TRUE(device->CopyOut(pinned, data, kCount * sizeof(bf16)).ok());
      ASSERT_TRUE(device->Synchronise().ok());
      const std::vector<float> sums = Expected<bf16>(kRanks, kCount, launch);
      for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(ToFloat(pinned[i]), 2 * sums[i]) << launch << " " << i;
    }
    device->Free(data);
    device->FreePinned(pinned);
  });
  EXPECT_EQ(areas.rounds(0)[0], 2u * kLaunches);
}

TEST(CudaAllReduce, RefusesWhatAnAreaIsNotFor) {
  Areas areas(1);
  AllReduce<bf16> op = areas.Of<bf16>(0, nullptr, nullptr, kAllReduceMaxBytes / sizeof(bf16) + 1);
  EXPECT_EQ(Enqueue(nullptr, op).code(), absl::StatusCode::kInvalidArgument);
  op.count = 0;
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  op.count = 8;
  op.ranks = ops::kAllReduceMaxRanks + 1;
  EXPECT_EQ(Enqueue(nullptr, op).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
