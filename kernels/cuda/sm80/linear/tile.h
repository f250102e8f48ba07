// The kernel of `linear`: a thread block makes one tile. Included by one source for each type of weight.
//
// A warp streams its rows of W from global memory into registers, `ahead` steps before their use, as the 16-row operand
// A of Mma; x comes through a ring in shared memory as the 8-column operand B. Which columns of k meet in a product is
// free as long as A and B agree: lane (g, t) takes columns 8t .. 8t + 7 of each block of 32, contiguous in both; of
// types of one byte columns 16t .. 16t + 15 of a step of 64, eight for each of two such blocks.
#pragma once

#include "kernels/cuda/linear_schedule.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda::linear {

// What a launch does, `linear`'s: the parts of one type of weight. Another's is in sm80/experts/tile.h. Place is where
// a block's tile lies; what the whole launch has is read from its parameters, which costs no registers.
struct Work {
  Linear op;
  Grid grid;

  using Place = linear::Place;
  static constexpr bool kMayIdle = false;  // whether a launch has blocks without a tile
  static SHOAL_HD constexpr bool Has(DType type, int tile) { return HasTile(type, tile); }
  // Of this thread's block, by whole warps.
  __device__ Place Find(int tile_rows, int tile_tokens) const {
    return PlaceOf(grid, tile_rows, tile_tokens, static_cast<int>(blockIdx.x));
  }
  __device__ int TokensEnd(const Place&) const { return op.tokens; }
  __device__ const void* Weights(const Place& place) const { return op.parts[place.part].w; }
  // Where row `row` of the tile has its scale and its bias.
  __device__ int Feature(const Place& place, int row) const { return place.row + row; }
};

template <typename Reader, int kIndex, typename Work>
class TileWarp {
 public:
  __device__ TileWarp(const Work& work, unsigned char* shared)
      : work_(work), op_(work.op), place_(work.Find(kRows, kTokens)), shared_(shared) {}
  // Whether the block has nothing to do.
  __device__ bool Idle() const { return place_.token >= work_.TokensEnd(place_); }

  __device__ void Open() {
    const LinearPart& part = op_.parts[place_.part];
    const int row_warp = thread() % kTeamThreads / 32;
    SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) {
      const int tile = row_warp * kRowTiles + r;
      readers_[r].Open(work_.Weights(place_), part.n, op_.k, place_.row + tile * kRowTile, lane());
    }
  }

  // Sums this warp's slices; then the block's sums are in shared memory, a slice each or all in one.
  __device__ void Sum() {
    if constexpr (kParallel) {
      const Steps steps = StepsOfSlice(op_.k, team());
      Clear();
      Stream(steps);
      __syncthreads();  // x of all warps is done with: sums take its place
      if (steps.begin < steps.end) KeepSums(team(), true);
    } else {
      Clear();
      Stream({0, StepsOf(op_.k)});
    }
    __syncthreads();
  }

  // Adds the slices and writes the tile.
  __device__ void Write() const {
    const LinearPart& part = op_.parts[place_.part];
    const int slices = kParallel ? SlicesOf(op_.k) : 1;
    for (int i = thread(); i < kTokens * kRows; i += kThreads) {
      const int token = i / kRows, row = i % kRows;
      if (place_.token + token >= work_.TokensEnd(place_) || place_.row + row >= part.n) continue;
      const float* sums = Sums(0) + token * (kRows + kSumPad) + row;
      float sum = sums[0];
      for (int s = 1; s < slices; ++s) sum += sums[s * kSumFloats];
      if (part.row_scale != nullptr) sum = __fmul_rn(sum, part.row_scale[work_.Feature(place_, row)]);
      if (part.bias != nullptr) sum = __fadd_rn(sum, part.bias[work_.Feature(place_, row)]);
      const int64_t at = (place_.token + token) * part.y_stride + place_.row + row;
      if (part.y != nullptr) {
        part.y[at] = FromFloat<bf16>(sum);
      } else {
        part.y_f32[at] = sum;
      }
    }
  }

 private:
  // Values, since device code cannot refer to the tile itself.
  static constexpr Tile kTile = kTiles[kIndex];
  static constexpr int kTokens = kTile.tokens, kGroups = kTokens / 8, kRowTiles = kTile.row_tiles, kRows = kTile.rows();
  static constexpr int kThreads = kTile.threads(), kTeamThreads = kTile.team_threads();
  static constexpr int kAhead = kTile.ahead, kRing = kTile.ring, kXBytes = kTile.x_bytes();
  static constexpr int kSumFloats = kTile.sum_floats(), kSumsAt = kTile.sums_at();
  static constexpr bool kParallel = kTile.parallel;

  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int lane() { return thread() % 32; }
  static __device__ int team() { return thread() / kTeamThreads; }
  static __device__ void TeamBarrier() { kParallel ? SyncWarp() : __syncthreads(); }
  __device__ float* Sums(int slice) const { return reinterpret_cast<float*>(shared_ + kSumsAt) + slice * kSumFloats; }
  __device__ unsigned char* Ring(int slot) const { return shared_ + team() * kXBytes + slot * (kTokens * kRowBytes); }

  __device__ void Clear() {
    SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) {
      SHOAL_UNROLL for (int j = 0; j < kGroups; ++j) { SHOAL_UNROLL for (int i = 0; i < 4; ++i) sums_[r][j][i] = 0; }
    }
  }

  // Multiplies steps [begin, end), where a slice begins.
  __device__ void Stream(Steps steps) {
    typename Reader::Raw raw[kAhead][kRowTiles];
    SHOAL_UNROLL for (int i = 0; i < kRing - 1; ++i) CopyX(steps.begin + i, steps.end, i);
    SHOAL_UNROLL for (int i = 0; i < kAhead; ++i) LoadWeights(raw[i], steps.begin + i, steps.end);
    int slot = 0, left = SliceSteps(op_.k);
    for (int base = steps.begin; base < steps.end; base += kAhead) {
      SHOAL_UNROLL for (int i = 0; i < kAhead; ++i) {
        const int step = base + i;
        if (step < steps.end) {
          WaitCopies<kRing - 2>();
          TeamBarrier();  // the step's x is there, and all are done with the slot before it
          CopyX(step + kRing - 1, steps.end, slot == 0 ? kRing - 1 : slot - 1);
          Multiply(raw[i], Ring(slot));
          LoadWeights(raw[i], step + kAhead, steps.end);
          slot = slot == kRing - 1 ? 0 : slot + 1;
          if constexpr (!kParallel) {
            if (--left == 0 || step + 1 == steps.end) {
              KeepSums(0, step < SliceSteps(op_.k));
              Clear();
              left = SliceSteps(op_.k);
            }
          }
        }
      }
    }
    WaitCopies<0>();
  }

  __device__ void LoadWeights(typename Reader::Raw (&raw)[kRowTiles], int step, int end) const {
    if (step >= end) return;
    const bool whole = step * kStep + kStep <= op_.k;
    SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) readers_[r].Load(raw[r], step, whole);
  }

  // This thread's share of the team's x of `step`; zeros past the last token and the last column. Written so that of
  // all its addresses only one is not an immediate: the compiler keeps what it can in registers from step to step.
  __device__ void CopyX(int step, int end, int slot) const {
    constexpr int kTokensAtOnce = kTeamThreads / 8;  // even: a thread's tokens are all odd or all even
    if (step < end) {
      const int in_team = thread() % kTeamThreads, piece = in_team % 8, token = in_team / 8;
      const int column = step * kStep + piece * 8, left = work_.TokensEnd(place_) - place_.token - token;
      const int tokens = column < op_.k ? left : 0;
      const bf16* from = op_.x + static_cast<int64_t>(place_.token + token) * op_.k + column;
      unsigned char* to = Ring(slot) + XOffset(token, piece);
      SHOAL_UNROLL for (int i = 0; i < kTokens / kTokensAtOnce; ++i) {
        CopyAsync16(to, from, i * kTokensAtOnce < tokens);
        to += kTokensAtOnce * kRowBytes;
        from += kTokensAtOnce * op_.k;
      }
    }
    CommitCopies();  // an empty group keeps the count
  }

  // Uses `raw` up. A loop, since the compiler would mix the two blocks, and has no registers for that.
  __device__ void Multiply(typename Reader::Raw (&raw)[kRowTiles], const unsigned char* x) {
    SHOAL_KEEP_LOOP for (int block = 0; block < 2; ++block) {
      uint32_t a[kRowTiles][Reader::kTerms][2][4];
      SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) Reader::Expand(raw[r], a[r]);
      SHOAL_UNROLL for (int j = 0; j < kGroups; ++j) {
        const int token = 8 * j + lane() / 4;
        const uint4 v =
            *reinterpret_cast<const uint4*>(x + XOffset(token, PieceOf(Reader::kLaneColumns, block, lane() % 4)));
        const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
        float x_sum[4] = {};  // of the block, for tokens 2t and 2t + 1; twice
        if constexpr (Reader::kHasMinimum) {
          constexpr uint32_t kOnes = 0x3f803f80;
          Products(x_sum, {{kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}}, b);
        }
        SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) {
          if constexpr (Reader::kScaled) {
            AddScaled(sums_[r][j], raw[r], a[r][0], b, x_sum);
          } else {
            SHOAL_UNROLL for (int half = 0; half < 2; ++half) {
              SHOAL_UNROLL for (int term = 0; term < Reader::kTerms; ++term)
                  Mma(sums_[r][j], a[r][term][half], b[half]);
            }
          }
        }
      }
      SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) Reader::NextBlock(raw[r]);
    }
  }

  static __device__ void Products(float (&d)[4], const uint32_t (&a)[2][4], const uint32_t (&b)[2][2]) {
    Mma(d, a[0], b[0]);
    Mma(d, a[1], b[1]);
  }

  static __device__ void AddScaled(float (&sum)[4], const typename Reader::Raw& raw, const uint32_t (&codes)[2][4],
                                   const uint32_t (&b)[2][2], const float (&x_sum)[4]) {
    float dot[4] = {};
    Products(dot, codes, b);
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      sum[i] = __fmaf_rn(Reader::Scale(raw, i / 2), dot[i], sum[i]);
      if constexpr (Reader::kHasMinimum) sum[i] = __fmaf_rn(Reader::Minimum(raw, i / 2), x_sum[i % 2], sum[i]);
    }
  }

  // The warp's sums to shared memory, put there or added: each lane has places of its own.
  __device__ void KeepSums(int slice, bool first) const {
    constexpr int kStride = kRows + kSumPad;
    const int row_warp = thread() % kTeamThreads / 32;
    float* kept = Sums(slice) + lane() % 4 * 2 * kStride + row_warp * (kRowTiles * kRowTile) + lane() / 4;
    SHOAL_UNROLL for (int r = 0; r < kRowTiles; ++r) {
      SHOAL_UNROLL for (int j = 0; j < kGroups; ++j) {
        SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
          float& sum = kept[(8 * j + i % 2) * kStride + r * kRowTile + i / 2 * 8];
          sum = first ? sums_[r][j][i] : sum + sums_[r][j][i];
        }
      }
    }
  }

  const Work& work_;
  const Linear& op_;
  const typename Work::Place place_;
  unsigned char* const shared_;
  Reader readers_[kRowTiles];
  float sums_[kRowTiles][kGroups][4];
};

template <int kIndex>
struct TileShared {
  alignas(128) unsigned char bytes[kTiles[kIndex].shared_bytes()];
};

template <typename Reader, int kIndex, typename Work>
__global__ void __launch_bounds__(kTiles[kIndex].threads(), kTiles[kIndex].per_sm)
    LinearTile(const __grid_constant__ Work work) {
  TileWarp<Reader, kIndex, Work> warp(work, Shared<TileShared<kIndex>>().bytes);
  if constexpr (Work::kMayIdle) {
    if (warp.Idle()) return;
  }
  warp.Open();
  warp.Sum();
  warp.Write();
}

template <typename Reader, int kIndex = 0, typename Work>
absl::Status LaunchTile(DeviceStream stream, const char* name, int tile, const Work& work) {
  if constexpr (kIndex < kTileCount) {
    if constexpr (Work::Has(Reader::kType, kIndex)) {
      constexpr Tile kTile = kTiles[kIndex];
      const LaunchShape shape = {dim3{static_cast<unsigned>(work.grid.blocks())},
                                 dim3{static_cast<unsigned>(kTile.threads())}, sizeof(TileShared<kIndex>)};
      if (tile == kIndex) return Launch(stream, name, shape, LinearTile<Reader, kIndex, Work>, work);
    }
    return LaunchTile<Reader, kIndex + 1>(stream, name, tile, work);
  } else {
    return absl::InternalError("linear: there is no such tile");
  }
}

// One for each type of weight; a source each.
absl::Status LaunchBf16(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchF16(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchQ8_0(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchQ4_0(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchQ4_1(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchF8E4M3(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchI4(DeviceStream stream, int tile, const Work& work);
absl::Status LaunchI8(DeviceStream stream, int tile, const Work& work);

}  // namespace shoal::cuda::linear
