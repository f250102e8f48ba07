// That the emulation is CUDA's model where kernels rely on it, and adverse where CUDA promises nothing.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/system.h"
#include "kernels/cuda/warp.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

struct Numbers {
  int of[64];
};

// Each thread writes its number and reads its neighbour's.
template <bool kBarrier>
void Neighbours(int* out) {
  Numbers& shared = Shared<Numbers>();
  const int i = static_cast<int>(threadIdx.x);
  shared.of[i] = i;
  if (kBarrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = shared.of[(i + 1) % 64];
}

template <bool kBarrier>
std::vector<int> RunNeighbours(emulated::Order order) {
  emulated::SetOrder(order, 3);
  std::vector<int> out(128, -2);
  EXPECT_TRUE(
      Launch(nullptr, "neighbours", {dim3{2}, dim3{64}, sizeof(Numbers)}, Neighbours<kBarrier>, out.data()).ok());
  emulated::SetOrder(emulated::Order::kAscending);
  return out;
}

TEST(Emulated, ABarrierLetsEveryThreadSeeWhatWasWrittenBefore) {
  for (const auto order : {emulated::Order::kAscending, emulated::Order::kDescending, emulated::Order::kShuffled}) {
    const auto out = RunNeighbours<true>(order);
    for (int i = 0; i < 128; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], (i + 1) % 64);
  }
}

TEST(Emulated, AMissingBarrierShows) {
  const auto ascending = RunNeighbours<false>(emulated::Order::kAscending);
  EXPECT_EQ(ascending[0], -1) << "shared memory begins as 0xff bytes";
  EXPECT_NE(ascending, RunNeighbours<false>(emulated::Order::kDescending));
  EXPECT_NE(ascending, RunNeighbours<false>(emulated::Order::kShuffled));
}

void LanesPart(int*) {
  if (threadIdx.x < 16) Ballot(true);
  if (threadIdx.x >= 16) __syncthreads();
}

TEST(EmulatedDeathTest, ABarrierThatNotAllReachIsNamed) {
  int* nothing = nullptr;
  EXPECT_DEATH((void)Launch(nullptr, "part", {dim3{1}, dim3{32}, 0}, LanesPart, nothing),
               "thread \\(15,0,0\\) at ballot");
}

void Shuffles(float* sums, int* from, uint32_t* votes) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  sums[threadIdx.x] = WarpSum(static_cast<float>(threadIdx.x));
  from[threadIdx.x] = Shuffle(lane * 10, (lane + 5) % 32);
  votes[threadIdx.x] = Ballot(lane % 3 == 0);
}

// Every block tells the others that it is there, and waits for all: they have to be there at once.
void MeetAll(uint32_t* flags, int* seen) {
  if (threadIdx.x == 0) StoreRelease(flags + blockIdx.x, 1);
  __syncthreads();
  if (threadIdx.x < gridDim.x) {
    while (LoadAcquire(flags + threadIdx.x) == 0) Pause();
  }
  __syncthreads();
  if (threadIdx.x == 1) seen[blockIdx.x] = static_cast<int>(LoadRelaxed(flags + gridDim.x - 1));
}

TEST(Emulated, BlocksThatWaitForEachOtherAreThereAtOnce) {
  for (const auto order : {emulated::Order::kAscending, emulated::Order::kDescending, emulated::Order::kShuffled}) {
    emulated::SetOrder(order, 3);
    std::vector<uint32_t> flags(9, 0);
    std::vector<int> seen(9, -1);
    ASSERT_TRUE(Launch(nullptr, "meet", {dim3{9}, dim3{64}, 0}, MeetAll, flags.data(), seen.data()).ok());
    EXPECT_EQ(seen, std::vector<int>(9, 1));
  }
  emulated::SetOrder(emulated::Order::kAscending);
}

void HalfLooks(uint32_t* flag) {
  if (threadIdx.x < 16) Ballot(true);
  if (threadIdx.x >= 16) {
    for (int looks = 0; looks < 3; ++looks) Pause();
    StoreRelease(flag, 1);
    __syncthreads();
  }
}

TEST(EmulatedDeathTest, ThreadsThatOnlyLookedAreWaitedForBeforeABarrierIsCalledMissed) {
  uint32_t flag = 0;
  EXPECT_DEATH((void)Launch(nullptr, "part", {dim3{1}, dim3{32}, 0}, HalfLooks, &flag),
               "thread \\(15,0,0\\) at ballot");
}

TEST(Emulated, WarpsActAlone) {
  std::vector<float> sums(64);
  std::vector<int> from(64);
  std::vector<uint32_t> votes(64);
  ASSERT_TRUE(
      Launch(nullptr, "shuffles", {dim3{1}, dim3{64}, 0}, Shuffles, sums.data(), from.data(), votes.data()).ok());
  EXPECT_EQ(sums[3], 31 * 16);
  EXPECT_EQ(sums[40], 31 * 16 + 32 * 32);
  EXPECT_EQ(from[30], 30);
  EXPECT_EQ(from[62], 30);
  EXPECT_EQ(votes[50], 0x49249249u);
}

struct Tiles {
  alignas(16) uint16_t a[16][24];  // a row is 48 bytes: 16-byte aligned, and not a whole matrix wide
  alignas(16) uint16_t b[8][24];   // [column][k]
  alignas(16) uint16_t bt[16][8];  // [k][column]
};

// d = a * b by fragments that came through ldmatrix; b from its transpose as well.
void OneTile(const uint16_t* a, const uint16_t* b, float* d, float* d2) {
  Tiles& s = Shared<Tiles>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) s.a[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) {
    s.b[i % 8][i / 8] = b[i];
    s.bt[i / 8][i % 8] = b[i];
  }
  __syncthreads();
  uint32_t fa[4], fb[4], ft[4];
  LoadMatrices(fa, &s.a[lane % 16][lane / 16 * 8]);
  LoadMatrices(fb, &s.b[lane % 8][lane / 8 % 2 * 8]);
  LoadMatricesTransposed(ft, &s.bt[lane % 16][0]);
  float sum[4] = {}, sum2[4] = {};
  Mma(sum, fa, {fb[0], fb[1]});
  Mma(sum2, fa, {ft[0], ft[1]});
  for (int i = 0; i < 4; ++i) {
    const int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
    d[at] = sum[i];
    d2[at] = sum2[i];
  }
}

TEST(Emulated, MmaOfLoadedMatricesIsTheProduct) {
  const auto a = RandomBf16(256, 1), b = RandomBf16(128, 2);
  std::vector<uint16_t> ha, hb;
  for (const float v : a) ha.push_back(F32ToBF16(v));
  for (const float v : b) hb.push_back(F32ToBF16(v));
  std::vector<float> d(128, NAN), d2(128, NAN);
  const LaunchShape shape = {dim3{1}, dim3{32}, sizeof(Tiles)};
  ASSERT_TRUE(Launch(nullptr, "tile", shape, OneTile, ha.data(), hb.data(), d.data(), d2.data()).ok());
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 8; ++c) {
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += static_cast<double>(a[static_cast<size_t>(r * 16 + k)]) * b[static_cast<size_t>(k * 8 + c)];
      EXPECT_NEAR(d[static_cast<size_t>(r * 8 + c)], sum, 1e-5);
      EXPECT_EQ(d[static_cast<size_t>(r * 8 + c)], d2[static_cast<size_t>(r * 8 + c)]);
    }
  }
}

void TransposeOne(const uint32_t* in, uint32_t* out) { out[threadIdx.x] = Transpose(in[threadIdx.x]); }

TEST(Emulated, ATransposedMatrixHasRowsForColumns) {
  uint16_t in[8][8], out[8][8];
  for (int i = 0; i < 64; ++i) in[i / 8][i % 8] = static_cast<uint16_t>(1000 + i);
  uint32_t pairs[32], transposed[32];
  std::memcpy(pairs, in, sizeof(in));
  ASSERT_TRUE(Launch(nullptr, "transpose", {dim3{1}, dim3{32}, 0}, TransposeOne, pairs, transposed).ok());
  std::memcpy(out, transposed, sizeof(out));
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i % 8][i / 8], in[i / 8][i % 8]);
}

struct Sixteen {
  alignas(16) int of[64];
};
template <bool kWait>
void Copies(const int* from, int* to) {
  Sixteen& s = Shared<Sixteen>();
  const int i = static_cast<int>(threadIdx.x);
  CopyAsync16(&s.of[4 * i], from + 4 * i, i % 2 == 0);
  CommitCopies();
  if (kWait) WaitCopies<0>();
  for (int j = 0; j < 4; ++j) to[4 * i + j] = s.of[4 * i + j];
  WaitCopies<0>();
}

TEST(Emulated, ACopyIsThereWhenItWasWaitedFor) {
  alignas(16) int from[64];
  for (int i = 0; i < 64; ++i) from[i] = i + 1;
  std::vector<int> to(64, -2);
  const LaunchShape shape = {dim3{1}, dim3{16}, sizeof(Sixteen)};
  ASSERT_TRUE(Launch(nullptr, "copies", shape, Copies<true>, from, to.data()).ok());
  for (int i = 0; i < 64; ++i) EXPECT_EQ(to[static_cast<size_t>(i)], i / 4 % 2 == 0 ? i + 1 : 0);
  ASSERT_TRUE(Launch(nullptr, "copies", shape, Copies<false>, from, to.data()).ok());
  EXPECT_EQ(to, std::vector<int>(64, -1)) << "not before";
}

TEST(Emulated, PairsAndBytesAreTheDevices) {
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x7632), 0x77663322u);
  EXPECT_EQ(__byte_perm(0x33221100, 0, 0x4140), 0x00110000u);
  EXPECT_EQ(__byte_perm(0x33221100, 0, 0x4342), 0x00330022u);
  EXPECT_EQ(FmaBf16(PackBf16(3, -2), PackBf16(5, 0.5f), PackBf16(1, 8)), PackBf16(16, 7));
  EXPECT_EQ(FmaBf16(PackBf16(256, 1), PackBf16(1, 1), PackBf16(1, 0)), PackBf16(256, 1)) << "rounded to even";
  const float2 pair = UnpackF16(0xc0003c00u);
  EXPECT_EQ(pair.x, 1);
  EXPECT_EQ(pair.y, -2);
  EXPECT_EQ(UnpackF16(1).x, 0x1p-24f) << "subnormal";
}

}  // namespace
}  // namespace shoal::cuda
