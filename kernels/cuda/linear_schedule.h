// How `linear` cuts its work, and why no cut changes a bit.
//   step    64 columns of k, in blocks of 32
//   slice   a whole number of steps, by k alone: at most kSlices of them cover k
//   tile    rows x tokens of the result: what a thread block makes; of which size is free
// A result is the f32 sum of its slices in ascending order; a slice is summed in rising k from zero, by the same
// instructions whatever the tile. A tile gives each slice a warp, and adds them through shared memory at the end, or
// lets one warp do all of them one after another, and adds at each border: the same sums. Mma's columns (tokens) and
// rows know nothing of each other.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_layout.h"

namespace shoal::cuda::linear {

inline constexpr int kStep = 64;
inline constexpr int kSlices = 8;
inline constexpr int kRowBytes = kStep * 2;  // of a token's x in a step
inline constexpr int kSumPad = 4;            // floats between the sums of two tokens: its four pairs of banks differ

SHOAL_HD constexpr int CeilDiv(int a, int b) { return (a + b - 1) / b; }
SHOAL_HD constexpr int StepsOf(int k) { return CeilDiv(k, kStep); }
SHOAL_HD constexpr int SliceSteps(int k) { return CeilDiv(StepsOf(k), kSlices); }
// Slices that have a step: the first ones.
SHOAL_HD constexpr int SlicesOf(int k) { return CeilDiv(StepsOf(k), SliceSteps(k)); }

struct Steps {
  int begin, end;
};
SHOAL_HD constexpr Steps StepsOfSlice(int k, int slice) {
  const int steps = StepsOf(k), length = SliceSteps(k);
  const int begin = slice * length, end = begin + length;
  return {begin < steps ? begin : steps, end < steps ? end : steps};
}

struct Tile {
  int tokens;     // a multiple of 8
  int row_tiles;  // of 16 rows, that a warp multiplies by each piece of x it reads
  int row_warps;  // side by side: they share x
  bool parallel;  // each slice has its own warps
  int ahead;      // steps of weights that a warp holds in registers
  int ring;       // steps of x in shared memory
  int per_sm;     // thread blocks on a multiprocessor; bounds the registers

  SHOAL_HD constexpr int rows() const { return kRowTile * row_tiles * row_warps; }
  SHOAL_HD constexpr int teams() const { return parallel ? kSlices : 1; }  // warps that share x
  SHOAL_HD constexpr int team_threads() const { return 32 * row_warps; }
  SHOAL_HD constexpr int threads() const { return team_threads() * teams(); }
  SHOAL_HD constexpr int x_bytes() const { return ring * tokens * kRowBytes; }  // of a team
  // Floats of one slice's sums, [tokens][rows + kSumPad].
  SHOAL_HD constexpr int sum_floats() const { return tokens * (rows() + kSumPad); }
  // Sums come after x, or, when slices are parallel, in its place once all are done.
  SHOAL_HD constexpr int sums_at() const { return parallel ? 0 : x_bytes(); }
  SHOAL_HD constexpr int shared_bytes() const {
    const int x = x_bytes() * teams(), sums = sum_floats() * teams() * 4;
    return parallel ? (x > sums ? x : sums) : x + sums;
  }
};

// Few tokens: eight warps of 32 rows, each with its own slice and x, so that no warp waits for another while weights
// stream. Many: warps side by side share x, and each weight is read once for 64 or 128 tokens.
inline constexpr Tile kTiles[] = {
    {8, 1, 1, true, 4, 8, 2},    // 0: 16 rows: for few rows
    {8, 2, 1, true, 2, 4, 2},    // 1
    {16, 2, 1, true, 2, 4, 2},   // 2
    {32, 2, 1, true, 2, 4, 1},   // 3
    {64, 2, 1, true, 2, 2, 1},   // 4
    {64, 2, 4, false, 2, 3, 2},  // 5: 128 rows
    {128, 2, 4, false, 1, 2, 2}  // 6: 128 rows
};
inline constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

// Whether a type of weight has a tile. It lacks those where its kernel would need more registers than there are: for
// codes and scales, sums and their parts, or the two terms of f16.
SHOAL_HD constexpr bool HasTile(DType type, int tile) {
  const bool sums_in_place = type == DType::kBF16 || type == DType::kF8E4M3 || type == DType::kI8;
  if (tile == 6) return sums_in_place;
  if (tile == 2) return type != DType::kF16;
  return tile >= 0 && tile < kTileCount;
}

// The tile for `rows` of W in all parts together: the largest that gives enough thread blocks to fill a device. Any
// choice is right. kSms is an H100's and H200's; on other devices it is a guess.
inline constexpr int kSms = 132;
inline int TileFor(DType type, int tokens, int rows) {
  const auto blocks = [&](int tile) {
    return CeilDiv(tokens, kTiles[tile].tokens) * CeilDiv(rows, kTiles[tile].rows());
  };
  if (tokens <= 8) return blocks(1) < kSms / 2 ? 0 : 1;
  if (tokens <= 16 && HasTile(type, 2)) return 2;
  if (tokens <= 32) return 3;
  if (tokens > 64 && HasTile(type, 6) && blocks(6) >= 2 * kSms) return 6;
  return blocks(5) >= kSms * 3 / 4 ? 5 : 4;
}

// The same for the rows of several experts, of which each has tiles of its own (experts.h). Tiles that lie between two
// others are left out: few experts have as many rows as to miss them. So is the largest of types of one byte, for
// registers: which expert it is, and where its weights and rows are, takes some that it has not.
SHOAL_HD constexpr bool HasExpertTile(DType type, int tile) {
  const bool byte = type == DType::kF8E4M3 || type == DType::kI8;
  return tile != 2 && tile != 4 && HasTile(type, tile) && !(tile == 6 && byte);
}
// `features`: rows of an expert's weights in all parts together. Experts have about the mean of the rows, or up to
// several times that: a tile that holds twice as many reads most weights once.
inline int ExpertTileFor(DType type, int rows, int experts, int features) {
  const int busy = rows < experts ? rows : experts, mean = CeilDiv(rows, busy);
  const auto blocks = [&](int tile) {
    return busy * CeilDiv(mean, kTiles[tile].tokens) * CeilDiv(features, kTiles[tile].rows());
  };
  if (mean <= 4) return blocks(1) < kSms / 2 ? 0 : 1;
  if (mean > 64 && HasExpertTile(type, 6) && blocks(6) >= 2 * kSms) return 6;
  return mean > 16 && blocks(5) >= kSms * 3 / 4 ? 5 : 3;
}
// Tiles of tokens that `rows` rows of so many experts fill at most, however they are spread.
inline int ExpertTokenBlocks(int tile_tokens, int rows, int experts) {
  const int64_t busy = rows < experts ? rows : experts;
  return static_cast<int>((rows + busy * (tile_tokens - 1)) / tile_tokens);
}

// Which part of the result a thread block makes.
struct Place {
  int part;
  int row;    // first of the tile in its part
  int token;  // first
};
// Thread blocks of neighbouring numbers share rows of W, up to kTokenGroup tiles of tokens; then come all rows again
// for the next tokens: both what they read of W and of x stays in the L2 cache meanwhile.
inline constexpr int kTokenGroup = 16;
struct Grid {
  int row_blocks_end[kMaxLinearParts];  // of this part and those before it
  int token_blocks;

  SHOAL_HD int blocks() const { return row_blocks_end[kMaxLinearParts - 1] * token_blocks; }
};
inline Grid GridOf(const Tile& tile, const int (&n)[kMaxLinearParts], int tokens) {
  Grid g = {};
  int end = 0;
  for (int p = 0; p < kMaxLinearParts; ++p) g.row_blocks_end[p] = end += CeilDiv(n[p], tile.rows());
  g.token_blocks = CeilDiv(tokens, tile.tokens);
  return g;
}
SHOAL_HD inline Place PlaceOf(const Grid& g, int tile_rows, int tile_tokens, int block) {
  const int row_blocks = g.row_blocks_end[kMaxLinearParts - 1];
  const int first = block / (row_blocks * kTokenGroup) * kTokenGroup;
  const int in_group = block % (row_blocks * kTokenGroup);
  const int left = g.token_blocks - first, width = left < kTokenGroup ? left : kTokenGroup;
  const int row_block = in_group / width;
  Place place = {0, 0, (first + in_group % width) * tile_tokens};
  int before = 0;
  for (int p = 0; p < kMaxLinearParts - 1; ++p) {
    if (row_block >= g.row_blocks_end[p]) {
      place.part = p + 1;
      before = g.row_blocks_end[p];
    }
  }
  place.row = (row_block - before) * tile_rows;
  return place;
}

// Of the 16-byte piece `piece` of a token's step of x in shared memory: odd tokens have the halves exchanged, and
// neighbours, so that eight lanes that read four pieces of two tokens meet 32 banks, in either order of PieceOf.
SHOAL_HD constexpr int XOffset(int token, int piece) { return token * kRowBytes + ((piece ^ (token & 1) * 5) * 16); }
// The piece that lane t of four multiplies in `block` (0 or 1) of a step, when it has 8 or 16 neighbouring columns.
SHOAL_HD constexpr int PieceOf(int lane_columns, int block, int t) {
  return lane_columns == 16 ? 2 * t + block : 4 * block + t;
}

}  // namespace shoal::cuda::linear
