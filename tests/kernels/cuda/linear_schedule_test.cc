#include "kernels/cuda/linear_schedule.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace shoal::cuda::linear {
namespace {

TEST(LinearSchedule, SlicesCoverEveryStepOnceInOrder) {
  for (int k = 32; k <= 32768; k += 32) {
    int next = 0;
    for (int s = 0; s < kSlices; ++s) {
      const Steps steps = StepsOfSlice(k, s);
      ASSERT_EQ(steps.begin, next) << k;
      ASSERT_EQ(steps.begin < steps.end, s < SlicesOf(k)) << k << ": the slices that have a step are the first";
      ASSERT_LE(steps.end - steps.begin, SliceSteps(k));
      next = steps.end;
    }
    ASSERT_EQ(next, StepsOf(k));
    ASSERT_EQ(StepsOf(k), (k + 63) / 64);
  }
}

TEST(LinearSchedule, EachTileOfEachPartIsMadeOnce) {
  const int n[kMaxLinearParts] = {100, 0, 16, 300};
  for (const Tile& tile : kTiles) {
    for (const int tokens : {1, 70, 129, 2100, 5000}) {
      const Grid grid = GridOf(tile, n, tokens);
      std::set<std::vector<int>> seen;
      for (int b = 0; b < grid.blocks(); ++b) {
        const Place p = PlaceOf(grid, tile.rows(), tile.tokens, b);
        ASSERT_LT(p.row, n[p.part]);
        ASSERT_LT(p.token, tokens);
        ASSERT_EQ(p.row % tile.rows(), 0);
        ASSERT_EQ(p.token % tile.tokens, 0);
        ASSERT_TRUE(seen.insert({p.part, p.row, p.token}).second) << "twice";
      }
      size_t row_blocks = 0;
      for (const int rows : n) row_blocks += static_cast<size_t>(CeilDiv(rows, tile.rows()));
      EXPECT_EQ(seen.size(), row_blocks * static_cast<size_t>(CeilDiv(tokens, tile.tokens)));
    }
  }
}

TEST(LinearSchedule, NeighboursShareRowsForAGroupOfTokens) {
  const int n[kMaxLinearParts] = {1024};
  const Grid grid = GridOf(kTiles[6], n, 128 * 20);
  const auto place = [&](int b) { return PlaceOf(grid, 128, 128, b); };
  EXPECT_EQ(place(15).row, 0);
  EXPECT_EQ(place(15).token, 15 * 128);
  EXPECT_EQ(place(16).row, 128);
  EXPECT_EQ(place(16).token, 0);
  EXPECT_EQ(place(8 * 16).token, 16 * 128) << "all rows before the next group";
  EXPECT_EQ(place(8 * 16 + 4).row, 128);
}

TEST(LinearSchedule, TilesFitTheirDevices) {
  for (const Tile& tile : kTiles) {
    EXPECT_LE(tile.threads(), 1024);
    EXPECT_LE(static_cast<size_t>(tile.shared_bytes()), ops::kCudaMinSharedBytes);
    EXPECT_LE(tile.per_sm * (tile.shared_bytes() + 1024), 228 << 10)
        << "what 9.0 has for the blocks it is meant to hold";
    EXPECT_EQ(tile.tokens * 8 % tile.team_threads(), 0) << "the copy of x is in whole rounds";
    EXPECT_EQ(tile.sums_at() % 16, 0);
    EXPECT_GE(tile.ring, 2);
  }
}

// Shapes of Llama-3-8B and 70B, whole and in eight shards.
TEST(LinearSchedule, TheTileFillsTheDeviceWhereTheShapeLetsIt) {
  for (const int rows : {4096, 8192, 10240, 28672, 57344, 128256}) {
    for (const int tokens : {1, 8, 9, 32, 33, 64, 128, 500, 4096}) {
      for (const DType type : {DType::kBF16, DType::kF16, DType::kQ4_1, DType::kF8E4M3}) {
        const int t = TileFor(type, tokens, rows);
        ASSERT_TRUE(HasTile(type, t));
        const int blocks = CeilDiv(tokens, kTiles[t].tokens) * CeilDiv(rows, kTiles[t].rows());
        EXPECT_GE(blocks, kSms * 3 / 4) << rows << " rows, " << tokens << " tokens, tile " << t;
      }
    }
  }
  EXPECT_EQ(TileFor(DType::kBF16, 1, 1280), 0) << "few rows: narrow tiles";
  EXPECT_EQ(TileFor(DType::kBF16, 1, 8192), 1);
  EXPECT_EQ(TileFor(DType::kBF16, 4096, 8192), 6);
  EXPECT_EQ(TileFor(DType::kF8E4M3, 4096, 8192), 6);
  EXPECT_EQ(TileFor(DType::kQ4_0, 4096, 8192), 5) << "that has no tile 6";
}

// A 128-bit access of shared memory goes by eight lanes at a time, which want different banks of 4 bytes.
TEST(LinearSchedule, AccessesOfSharedMemoryMeetNoBankTwice) {
  for (const int columns : {8, 16}) {
    std::set<int> read;
    for (int block = 0; block < 2; ++block) {
      for (int eight = 0; eight < 32; eight += 8) {
        std::set<int> banks;
        for (int lane = eight; lane < eight + 8; ++lane) {
          banks.insert(XOffset(lane / 4, PieceOf(columns, block, lane % 4)) / 16 % 8);
          read.insert(PieceOf(columns, block, lane % 4));
        }
        EXPECT_EQ(banks.size(), 8u) << "reading x";
      }
    }
    EXPECT_EQ(read.size(), 8u) << "each piece once";
  }
  std::set<int> pieces;
  for (int token = 0; token < 8; ++token) {
    std::set<int> banks;
    for (int piece = 0; piece < 8; ++piece) {
      banks.insert(XOffset(token, piece) / 16 % 8);
      pieces.insert(XOffset(token, piece));
    }
    EXPECT_EQ(banks.size(), 8u) << "writing x";
  }
  EXPECT_EQ(pieces.size(), 64u);
  for (const Tile& tile : kTiles) {
    std::set<int> banks;
    for (int lane = 0; lane < 32; ++lane) banks.insert((lane % 4 * 2 * (tile.rows() + kSumPad) + lane / 4) % 32);
    EXPECT_EQ(banks.size(), 32u) << "keeping sums of " << tile.rows() << " rows";
  }
}

TEST(LinearLayout, EveryByteOfAUnitHasOneMeaning) {
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kI4}) {
    const BlockLayout l = LayoutOf(type);
    EXPECT_EQ(static_cast<size_t>(l.BlockBytes()), kRowTile * RowBytes(type, kQuantBlock)) << "no byte is added";
    for (const int blocks : {1, 2}) {
      std::vector<int> uses(static_cast<size_t>(blocks * l.BlockBytes()));
      const auto use = [&](int at, int size) {
        for (int i = 0; i < size; ++i) ++uses.at(static_cast<size_t>(at + i));
      };
      for (int b = 0; b < blocks; ++b) {
        for (int high = 0; high < 2; ++high) {
          for (int lane = 0; lane < kLanes; ++lane) use(CodeOffset(l, blocks, lane, b, high), l.code_bytes);
          for (int g = 0; g < 8; ++g) {
            for (int kind = 0; kind < l.number_bytes / 4; ++kind) use(NumberOffset(l, blocks, g, b, high, kind), 2);
          }
        }
      }
      EXPECT_EQ(uses, std::vector<int>(uses.size(), 1));
    }
  }
}

}  // namespace
}  // namespace shoal::cuda::linear
