#include <algorithm>

#include "common/base/rng.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear_schedule.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr int kExperts = 7;

// A matrix of each expert one behind the other, with gaps, as a region of weights has them.
struct Stack {
  Stack(DType t, int rows, int columns, uint64_t seed)
      : type(t),
        n(rows),
        k(columns),
        stride(static_cast<int64_t>((LinearBytes(t, n, k) + 127) / 64 * 64)),
        packed(static_cast<size_t>(stride * kExperts)),
        scale(ops::RandomFloats(static_cast<size_t>(kExperts * n), seed + 1)),
        bias(ops::RandomFloats(static_cast<size_t>(kExperts * n), seed + 2)) {
    for (int e = 0; e < kExperts; ++e) {
      PackLinear(t, ops::RandomWeight(t, n, k, seed + 10 + static_cast<uint64_t>(e)).data(), 0, n, k,
                 packed.data() + e * stride);
    }
  }
  const DType type;
  const int n, k;
  const int64_t stride;
  Buffer<uint8_t> packed;
  Buffer<float> scale, bias;
};

// The values of bf16 as bits: what was not written shows.
std::vector<uint16_t> BitsOf(Buffer<bf16>& b) {
  std::vector<uint16_t> bits(b.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = b.data()[i].bits;
  return bits;
}

// Both parts' results.
std::vector<std::vector<uint16_t>> OnDevice(Stack& a, Stack& b, const std::vector<float>& x,
                                            const std::vector<int32_t>& first, int tile = -1) {
  const int rows = static_cast<int>(x.size()) / a.k;
  Buffer<bf16> dx(x), ya(static_cast<size_t>(rows * a.n) + 8), yb(ya.size());
  const ExpertLinear op = {.x = dx.data(),
                           .parts = {{a.packed.data(), ya.data(), a.scale.data(), nullptr},
                                     {b.packed.data(), yb.data(), nullptr, b.bias.data()}},
                           .type = a.type,
                           .n = a.n,
                           .stride = a.stride,
                           .first = first.data(),
                           .rows = rows,
                           .experts = kExperts,
                           .k = a.k,
                           .tile = tile};
  const absl::Status status = Enqueue(nullptr, op);
  EXPECT_TRUE(status.ok()) << status;
  return {BitsOf(ya), BitsOf(yb)};
}

// Each expert's rows by `linear`.
std::vector<std::vector<uint16_t>> OneByOne(Stack& a, Stack& b, const std::vector<float>& x,
                                            const std::vector<int32_t>& first) {
  const int rows = static_cast<int>(x.size()) / a.k;
  Buffer<bf16> dx(x), ya(static_cast<size_t>(rows * a.n) + 8), yb(ya.size());
  for (int e = 0; e < kExperts; ++e) {
    const int64_t at = int64_t{first[static_cast<size_t>(e)]}, of_expert = int64_t{e} * a.n;
    Linear op = {.x = dx.data() + at * a.k,
                 .parts = {},
                 .part_count = 2,
                 .tokens = first[static_cast<size_t>(e) + 1] - static_cast<int>(at),
                 .k = a.k};
    op.parts[0] = {a.packed.data() + e * a.stride, a.type, a.n, ya.data() + at * a.n, nullptr, a.n,
                   a.scale.data() + of_expert};
    op.parts[1] = {b.packed.data() + e * b.stride, b.type, b.n, yb.data() + at * b.n, nullptr, b.n, nullptr,
                   b.bias.data() + of_expert};
    EXPECT_TRUE(Enqueue(nullptr, op).ok());
  }
  return {BitsOf(ya), BitsOf(yb)};
}

class CudaExpertLinear : public testing::TestWithParam<DType> {};

// Experts without rows, with one, with a whole tile, with more than one; on every tile.
TEST_P(CudaExpertLinear, IsLinearOfEachExpertsRows) {
  Stack a(GetParam(), 35, 160, 1), b(GetParam(), 35, 160, 50);
  const std::vector<std::vector<int32_t>> routes = {
      {0, 0, 1, 9, 17, 17, 53, 53}, {0, 53, 53, 53, 53, 53, 53, 53}, {0, 0, 0, 0, 0, 0, 0, 53}};
  const auto x = RandomBf16(53 * 160, 2);
  for (const auto& first : routes) {
    const auto expected = OneByOne(a, b, x, first);
    EXPECT_NE(expected[0], expected[1]);
    for (int tile = -1; tile < linear::kTileCount; ++tile) {
      if (tile >= 0 && !linear::HasExpertTile(GetParam(), tile)) continue;
      SCOPED_TRACE(testing::Message() << "tile " << tile);
      const auto got = OnDevice(a, b, x, first, tile);
      for (size_t p = 0; p < 2; ++p) EXPECT_TRUE(expected[p] == got[p]) << "part " << p;
    }
  }
}

TEST_P(CudaExpertLinear, ARowAloneIsTheRowAmongOthers) {
  Stack a(GetParam(), 20, 96, 1), b(GetParam(), 20, 96, 50);
  const std::vector<int32_t> first = {0, 2, 2, 11, 12, 12, 20, 21};
  const auto x = RandomBf16(21 * 96, 3);
  const auto all = OnDevice(a, b, x, first);
  for (const int row : {0, 5, 11, 20}) {
    const auto expert = std::upper_bound(first.begin(), first.end(), row) - first.begin() - 1;
    std::vector<int32_t> only(kExperts + 1, 0);
    std::fill(only.begin() + expert + 1, only.end(), 1);
    const auto alone = OnDevice(a, b, {x.begin() + row * 96, x.begin() + (row + 1) * 96}, only);
    for (size_t p = 0; p < 2; ++p) {
      EXPECT_TRUE(std::equal(alone[p].begin(), alone[p].begin() + 20, all[p].begin() + row * 20)) << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaExpertLinear,
                         testing::Values(DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                                         DType::kF8E4M3, DType::kI8, DType::kI4),
                         [](const auto& info) { return std::string(Info(info.param).name); });

TEST(CudaExpertTiles, TheOrderOfThreadsDoesNotShow) {
  Stack a(DType::kBF16, 33, 96, 1), b(DType::kBF16, 33, 96, 50);
  const auto x = RandomBf16(40 * 96, 4);
  const auto y = InEveryOrder<uint16_t>([&] { return OnDevice(a, b, x, {0, 9, 9, 10, 30, 38, 40, 40})[1]; });
  EXPECT_EQ(std::count(y.begin(), y.end(), uint16_t{0xffff}), 8) << "beyond the last row";
}

// However rows are spread, there is a tile for all of them, and few more.
TEST(CudaExpertTiles, ALaunchHasEnough) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const auto pick = [&](uint64_t at, int below) {
      return static_cast<int>(RandomBits(seed, 3, at) % static_cast<uint64_t>(below));
    };
    const int experts = 1 + pick(0, 40), rows = 1 + pick(1, 300), tile = 8 << pick(2, 5);
    std::vector<int> of(static_cast<size_t>(experts), 0);
    for (int i = 0; i < rows; ++i) {
      ++of[static_cast<size_t>(pick(3, 2) == 0 ? i % experts : pick(10 + static_cast<uint64_t>(i), experts))];
    }
    int tiles = 0;
    for (const int count : of) tiles += linear::CeilDiv(count, tile);
    EXPECT_LE(tiles, linear::ExpertTokenBlocks(tile, rows, experts));
    EXPECT_LE(linear::ExpertTokenBlocks(tile, rows, experts), std::min(rows, rows / tile + experts));
  }
  EXPECT_EQ(linear::ExpertTokenBlocks(8, 8, 128), 8) << "one token's experts";
}

TEST(CudaExpertTiles, FewRowsTakeSmallTiles) {
  EXPECT_EQ(linear::ExpertTileFor(DType::kBF16, 8, 128, 1536), 1);
  EXPECT_EQ(linear::ExpertTileFor(DType::kBF16, 2, 8, 96), 0);
  EXPECT_EQ(linear::ExpertTileFor(DType::kBF16, 1024, 128, 1536), 3);
  EXPECT_EQ(linear::ExpertTileFor(DType::kBF16, 4096, 128, 1536), 5);
  EXPECT_EQ(linear::ExpertTileFor(DType::kBF16, 16384, 8, 28672), 6);
  for (const DType t : {DType::kF16, DType::kF8E4M3, DType::kI8})
    EXPECT_EQ(linear::ExpertTileFor(t, 16384, 8, 28672), 5);
}

TEST(CudaExpertErrors, WhatItCannotServeIsRefused) {
  bf16 y[16] = {};
  const int32_t first[] = {0, 0};
  const ExpertLinear good = {.x = y,
                             .parts = {{y, y, nullptr, nullptr}},
                             .type = DType::kBF16,
                             .n = 8,
                             .stride = 1024,
                             .first = first,
                             .rows = 0,
                             .experts = 1,
                             .k = 64};
  EXPECT_TRUE(Enqueue(nullptr, good).ok());
  const auto refused = [&](auto change) {
    ExpertLinear op = good;
    change(op);
    return Enqueue(nullptr, op).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](ExpertLinear& op) { op.k = 40; })) << "k in no whole blocks";
  EXPECT_TRUE(refused([](ExpertLinear& op) { op.type = DType::kF32; })) << "a type without a kernel";
  EXPECT_TRUE(refused([](ExpertLinear& op) { op.stride = 1000; })) << "weights that are not aligned";
  EXPECT_TRUE(refused([](ExpertLinear& op) { op.experts = 0; })) << "no experts";
  EXPECT_TRUE(refused([](ExpertLinear& op) { op.tile = 2; })) << "no such tile";
}

}  // namespace
}  // namespace shoal::cuda
