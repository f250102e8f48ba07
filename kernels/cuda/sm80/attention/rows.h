// One warp's rows of a unit, 8 kColumns (token, head) pairs, through the splits of an item. Rows are the columns of its
// products, so that 8 are enough to fill one: scores^T = K q^T and out^T = V^T weights^T, K and V as the A operand
// from shared memory, the weights turned from an accumulator into a B operand by one transposition of each 8x8.
// A lane has, with g = lane / 4 and t = lane % 4: of scores keys g and g + 8 of each 16, rows 2t and 2t + 1 of each 8;
// of sums and products the same with dims for keys. Statistics of a row are the same bits in its eight lanes.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/sm80/attention/tile.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda {

inline constexpr float kNothing = -__builtin_huge_valf();  // the exponent of no keys

// 2^exponent for a whole exponent <= 0; 0 when that is not normal, and for no number (no keys yet).
__device__ __forceinline__ float PowerOfTwo(float exponent) {
  return exponent >= -126.0f ? __int_as_float((static_cast<int>(exponent) + 127) << 23) : 0.0f;
}
// a part * factor + b part * factor: where tiles and splits meet. Not contracted otherwise by any compiler.
__device__ __forceinline__ float Fold(float a, float a_factor, float b, float b_factor) {
  return __fmaf_rn(b, b_factor, __fmul_rn(a, a_factor));
}
__device__ __forceinline__ float Quotient(float product, float inverse) { return __fmul_rn(product, inverse); }

// Row r of a unit, and what it is in the batch.
struct AttentionUnit {
  int heads, rows;  // of the unit's kv head; rows of all the sequence's units of that head
  int head_begin, row_begin, position, q_heads;
  bool causal;  // else `position` is the sequence's last
  // The last that the row sees.
  SHOAL_HD int Last(int r) const { return causal ? position + r / heads : position; }
  // (token, head), counted in heads over the batch.
  SHOAL_HD int64_t Head(int r) const {
    return static_cast<int64_t>(row_begin + r / heads) * q_heads + head_begin + r % heads;
  }
};

// The first key tile that rows of a unit from `row` on see.
__device__ __forceinline__ int FirstTile(const Attention& op, const AttentionUnit& unit, int row) {
  return op.window > 0 ? max(unit.Last(row) + 1 - op.window, 0) / kAttentionTile : 0;
}

// A score's exponent of 2 is log2 times q . K, or log2 times tanh(ln(2) / 2 * cap * q . K) where cap is not 0.
struct AttentionScale {
  float log2, cap;
};
__device__ __forceinline__ AttentionScale ScaleOf(const Attention& op) {
  constexpr float kLog2E = 1.44269504f;
  if (op.soft_cap > 0) return {__fmul_rn(op.soft_cap, kLog2E), __fmul_rn(op.scale / op.soft_cap, 2 * kLog2E)};
  return {__fmul_rn(op.scale, kLog2E), 0.0f};
}
// tanh(ln(2) / 2 * exponent), as 1 - 2 / (1 + e^2x): to about 1e-7, where tanh.approx has 5e-4.
__device__ __forceinline__ float TanhOfPower(float exponent) {
  return __fmaf_rn(-2.0f, __fdividef(1.0f, __fadd_rn(1.0f, Exp2(exponent))), 1.0f);
}

// kGeneral: with a window, a soft cap or without an order; a kernel of its own, since the others have no register to
// spare for what they do not use.
template <int kDim, int kColumns, bool kGeneral>
struct AttentionRows {
  static constexpr int kSteps = kDim / 16;
  static constexpr int kKeySteps = kAttentionTile / 16;
  static constexpr int kRows = 8 * kColumns;

  uint32_t q[kSteps][kColumns][2];
  int last[kColumns][2];  // the last position that rows 2t and 2t + 1 see; -1: no such row
  int last_of_first = -1, last_of_all = -1;
  float products[kSteps][kColumns][4];
  float sum[kColumns][4];  // [0] and [1]: of rows 2t and 2t + 1
  float exponent[kColumns][2];

  // Rows [row, row + kRows) of the unit, as far as there are any.
  __device__ __forceinline__ void Load(const Attention& op, const AttentionUnit& unit, int row) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    last_of_first = row < unit.rows ? unit.Last(row) : -1;
    last_of_all = row < unit.rows ? unit.Last(min(row + kRows, unit.rows) - 1) : -1;
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
        const int r = row + 8 * c + 2 * t + i;
        last[c][i] = r < unit.rows ? unit.Last(r) : -1;
      }
      const int own = row + 8 * c + g;
      const bool there = own < unit.rows;
      const int token = unit.row_begin + own / unit.heads, head = unit.head_begin + own % unit.heads;
      const bf16* from = op.q + (there ? token * op.q_stride + static_cast<int64_t>(head) * op.head_dim + 2 * t : 0);
      SHOAL_UNROLL for (int s = 0; s < kSteps; ++s) {
        SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
          q[s][c][i] = there && 16 * s < op.head_dim ? *reinterpret_cast<const uint32_t*>(from + 16 * s + 8 * i) : 0;
        }
      }
    }
  }

  __device__ __forceinline__ void BeginSplit() {
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) exponent[c][i] = kNothing;
      SHOAL_UNROLL for (int e = 0; e < 4; ++e) sum[c][e] = 0;
      SHOAL_UNROLL for (int s = 0; s < kSteps; ++s) { SHOAL_UNROLL for (int e = 0; e < 4; ++e) products[s][c][e] = 0; }
    }
  }

  // The keys of a tile that none of the rows sees change nothing, and need not be given.
  __device__ __forceinline__ bool Sees(const Attention& op, int tile) const {
    if (kGeneral && op.window > 0 && (tile + 1) * kAttentionTile + op.window <= last_of_first + 1) return false;
    return tile * kAttentionTile <= last_of_all;
  }

  // weights[t][c]: of a tile's keys [16 t, 16 t + 16), as a B operand; sums and products rescaled to their exponents.
  __device__ __forceinline__ void Weigh(const Attention& op, const bf16* k, int tile, const AttentionScale& scale,
                                        uint32_t (&weights)[kKeySteps][kColumns][2]) {
    const float scale_log2 = scale.log2;
    float scores[kKeySteps][kColumns][4] = {};
    Score(k, scores);
    if (kGeneral && scale.cap > 0) Cap(scale.cap, scores);
    if (tile * kAttentionTile + kAttentionTile - 1 > last_of_first) Mask(tile, scores);
    if (kGeneral && op.window > 0 && tile * kAttentionTile + op.window <= last_of_all) Hide(op.window, tile, scores);
    float base[kColumns][2], rescale[kColumns][2];
    bool changes = false;
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
        const float next = fmaxf(exponent[c][i], ceilf(__fmul_rn(Greatest(scores, c, i), scale_log2)));
        rescale[c][i] = PowerOfTwo(exponent[c][i] - next);
        changes = changes || next != exponent[c][i];
        exponent[c][i] = next;
        base[c][i] = next == kNothing ? 0.0f : next;
      }
    }
    if (Ballot(changes) != 0) Rescale(rescale);
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
        SHOAL_UNROLL for (int half = 0; half < 2; ++half) {
          const float w0 = Exp2(__fmaf_rn(scores[t][c][2 * half], scale_log2, -base[c][0]));
          const float w1 = Exp2(__fmaf_rn(scores[t][c][2 * half + 1], scale_log2, -base[c][1]));
          weights[t][c][half] = Transpose(PackBf16(w0, w1));
        }
      }
    }
  }

  // sum += weights, products += V^T weights^T, over rising keys.
  __device__ __forceinline__ void Add(const bf16* v, const uint32_t (&weights)[kKeySteps][kColumns][2]) {
    constexpr uint32_t kOnes = 0x3f803f80u;  // two bf16
    const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
    const int first = Opaque(ValueFragmentOffset<kDim>(static_cast<int>(threadIdx.x) % 32));
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) Mma(sum[c], ones, weights[t][c]);
      SHOAL_UNROLL for (int s = 0; s < kSteps; ++s) {
        uint32_t a[4];
        LoadMatricesTransposed(a, v + LaterFragment<kDim>(first, t, s));
        SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) Mma(products[s][c], a, weights[t][c]);
      }
    }
  }

 private:
  __device__ __forceinline__ void Score(const bf16* k, float (&scores)[kKeySteps][kColumns][4]) const {
    const int first = Opaque(KeyFragmentOffset<kDim>(static_cast<int>(threadIdx.x) % 32));
    SHOAL_UNROLL for (int s = 0; s < kSteps; ++s) {
      SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
        uint32_t a[4];
        LoadMatrices(a, k + LaterFragment<kDim>(first, t, s));
        SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) Mma(scores[t][c], a, q[s][c]);
      }
    }
  }
  __device__ __forceinline__ void Mask(int tile, float (&scores)[kKeySteps][kColumns][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, begin = tile * kAttentionTile + lane / 4;
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
        SHOAL_UNROLL for (int e = 0; e < 4; ++e) {
          if (begin + 16 * t + 8 * (e / 2) > last[c][e % 2]) scores[t][c][e] = kNothing;
        }
      }
    }
  }
  __device__ __forceinline__ void Hide(int window, int tile, float (&scores)[kKeySteps][kColumns][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, begin = tile * kAttentionTile + lane / 4 + window;
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
        SHOAL_UNROLL for (int e = 0; e < 4; ++e) {
          if (begin + 16 * t + 8 * (e / 2) <= last[c][e % 2]) scores[t][c][e] = kNothing;
        }
      }
    }
  }
  static __device__ __forceinline__ void Cap(float by, float (&scores)[kKeySteps][kColumns][4]) {
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
        SHOAL_UNROLL for (int e = 0; e < 4; ++e) scores[t][c][e] = TanhOfPower(__fmul_rn(scores[t][c][e], by));
      }
    }
  }
  // Of row 2t + i, over the tile's keys.
  __device__ __forceinline__ float Greatest(const float (&scores)[kKeySteps][kColumns][4], int c, int i) const {
    float greatest = kNothing;
    SHOAL_UNROLL for (int t = 0; t < kKeySteps; ++t) {
      greatest = fmaxf(greatest, fmaxf(scores[t][c][i], scores[t][c][i + 2]));
    }
    SHOAL_UNROLL for (int d = 4; d < 32; d *= 2) greatest = fmaxf(greatest, ShuffleXor(greatest, d));
    return greatest;
  }
  // By 1 where a row's exponent stays: nothing is changed by leaving it out for a warp where all stay.
  __device__ __forceinline__ void Rescale(const float (&by)[kColumns][2]) {
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      SHOAL_UNROLL for (int e = 0; e < 4; ++e) {
        sum[c][e] = __fmaf_rn(sum[c][e], by[c][e % 2], 0.0f);  // + 0: never -0, as when it is left out
        SHOAL_UNROLL for (int s = 0; s < kSteps; ++s) {
          products[s][c][e] = __fmaf_rn(products[s][c][e], by[c][e % 2], 0.0f);
        }
      }
    }
  }
};

}  // namespace shoal::cuda
