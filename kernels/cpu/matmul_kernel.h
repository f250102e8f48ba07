// Matmul micro-kernels on Vec: a tile of M tokens by one group (quantised) or R groups (plain) of kLanes rows. A row
// lives in one lane from start to end and sums by rising k, so neither M nor R shows in its result. Included by
// set_*.cc after a vec_*.h; everything is local to that file.
#pragma once

#include "kernels/cpu/kernel_set.h"

namespace shoal::ops::cpu {
namespace {

inline constexpr int kBlock = 32;
inline constexpr int kBlockVectors = 8;  // of 4 columns

inline void StoreRows(const Vec& v, float* y, int rows) {
  if (rows >= Vec::kLanes) return v.Store(y);
  float all[Vec::kLanes];
  v.Store(all);
  for (int i = 0; i < rows; ++i) y[i] = all[i];
}

struct FormatQ8_0 {
  using Dot = DotS8;
  static constexpr float kBias = Dot::kBias;
  static constexpr bool kMinimum = false;
  static constexpr int kCodeBytes = kBlockVectors * Vec::kLanes * 4;  // of one block of a group
};
struct FormatQ4_0 {
  using Dot = DotU4;
  static constexpr float kBias = 8;
  static constexpr bool kMinimum = false;
  static constexpr int kCodeBytes = kBlockVectors * Vec::kLanes * 2;
};
struct FormatQ4_1 {
  using Dot = DotU4;
  static constexpr float kBias = 0;
  static constexpr bool kMinimum = true;
  static constexpr int kCodeBytes = kBlockVectors * Vec::kLanes * 2;
};

// acc[m] = sums of products of one block.
template <int M, typename Format>
inline __attribute__((always_inline)) void BlockDot(const uint8_t* w, const int8_t* x, int64_t x_stride,
                                                    typename Format::Dot::Acc (&acc)[M]) {
  using Dot = typename Format::Dot;
  for (int m = 0; m < M; ++m) acc[m] = Dot::Zero();
  if constexpr (Format::kCodeBytes == kBlockVectors * Vec::kLanes * 4) {
#pragma GCC unroll 8
    for (int j = 0; j < kBlockVectors; ++j) {
      const auto v = Dot::Load(w + j * Vec::kLanes * 4);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m] = Dot::Step(acc[m], v, x + m * x_stride + 4 * j);
    }
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < kBlockVectors / 2; ++j) {
      const auto low = Dot::LoadLow(w + j * Vec::kLanes * 4);
      const auto high = Dot::LoadHigh(w + j * Vec::kLanes * 4);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        acc[m] = Dot::Step(acc[m], low, x + m * x_stride + 4 * j);
        acc[m] = Dot::Step(acc[m], high, x + m * x_stride + 16 + 4 * j);
      }
    }
  }
}

template <int M, typename Format>
void QuantisedTile(const MatmulTask& t, const uint8_t* group, int token, float* y, int rows) {
  const int blocks = t.k / kBlock;
  const int8_t* q = t.q + static_cast<int64_t>(token) * t.k;
  const float* scale = t.scale + static_cast<int64_t>(token) * blocks;
  const float* sum = t.sum + static_cast<int64_t>(token) * blocks;
  constexpr int kHalves = Vec::kLanes * 2;  // bytes of the scales, and of the minima
  constexpr int kBlockBytes = Format::kCodeBytes + kHalves * (Format::kMinimum ? 2 : 1);
  Vec out[M];
  for (int m = 0; m < M; ++m) out[m] = Vec::Set(0);
  for (int b = 0; b < blocks; ++b) {
    typename Format::Dot::Acc acc[M];
    const uint8_t* w = group + static_cast<int64_t>(b) * kBlockBytes;
    BlockDot<M, Format>(w, q + b * kBlock, t.k, acc);
    const Vec d = Vec::LoadF16(w + Format::kCodeBytes);
    const Vec min = Format::kMinimum ? Vec::LoadF16(w + Format::kCodeBytes + kHalves) : Vec::Set(-Format::kBias);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec s = Vec::Set(scale[m * blocks + b]);
      const Vec dot = Format::Dot::Finish(acc[m]);
      if constexpr (Format::kBias != 0) {  // d * (scale * dot - bias * sum)
        out[m] = Fma(d, Fma(dot, s, Mul(min, Vec::Set(sum[m * blocks + b]))), out[m]);
      } else {
        out[m] = Fma(Mul(d, s), dot, out[m]);
        if (Format::kMinimum) out[m] = Fma(min, Vec::Set(sum[m * blocks + b]), out[m]);
      }
    }
  }
  for (int m = 0; m < M; ++m) StoreRows(out[m], y + m * t.y_stride, rows);
}

template <int M, typename Format>
void QuantisedTokens(const MatmulTask& t, int token) {
  for (int row = 0; row < t.rows; row += Vec::kLanes) {
    QuantisedTile<M, Format>(t, t.w + row / Vec::kLanes * t.group_bytes, token, t.y + token * t.y_stride + row,
                             t.rows - row);
  }
}

struct PlainF32 {
  static constexpr int kBytes = 4;
  static Vec Load(const uint8_t* p) { return Vec::Load(reinterpret_cast<const float*>(p)); }
};
struct PlainF16 {
  static constexpr int kBytes = 2;
  static Vec Load(const uint8_t* p) { return Vec::LoadF16(p); }
};
struct PlainBF16 {
  static constexpr int kBytes = 2;
  static Vec Load(const uint8_t* p) { return Vec::LoadBF16(p); }
};
struct PlainF8E4M3 {
  static constexpr int kBytes = 1;
  static Vec Load(const uint8_t* p) { return Vec::LoadF8E4M3(p); }
};
struct PlainI8 {
  static constexpr int kBytes = 1;
  static Vec Load(const uint8_t* p) { return Vec::LoadI8(p); }
};

// Products are summed in blocks of kSumBlock columns, and the blocks in ascending order: one long chain of f32
// additions would lose about log2(k) / 2 more bits, which shows in the logits of ill-conditioned positions.
constexpr int kSumBlock = 64;

template <int M, int R, typename Format>
void PlainTile(const MatmulTask& t, const uint8_t* group, int token, float* y, int rows) {
  const float* x = t.x + static_cast<int64_t>(token) * t.k;
  Vec out[M][R];
  for (int m = 0; m < M; ++m) {
    for (int r = 0; r < R; ++r) out[m][r] = Vec::Set(0);
  }
  for (int begin = 0; begin < t.k; begin += kSumBlock) {
    const int end = begin + kSumBlock < t.k ? begin + kSumBlock : t.k;
    Vec part[M][R];
    for (int m = 0; m < M; ++m) {
      for (int r = 0; r < R; ++r) part[m][r] = Vec::Set(0);
    }
    for (int k = begin; k < end; ++k) {
      Vec w[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) w[r] = Format::Load(group + r * t.group_bytes + k * (Vec::kLanes * Format::kBytes));
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Vec v = Vec::Set(x[static_cast<int64_t>(m) * t.k + k]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) part[m][r] = Fma(w[r], v, part[m][r]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) out[m][r] = Add(out[m][r], part[m][r]);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int r = 0; r < R; ++r) StoreRows(out[m][r], y + m * t.y_stride + r * Vec::kLanes, rows - r * Vec::kLanes);
  }
}

template <int M, typename Format>
void PlainTokens(const MatmulTask& t, int token) {
  constexpr int kGroups = kPlainGroups(M);
  int row = 0;
  for (; row + (kGroups - 1) * Vec::kLanes < t.rows; row += kGroups * Vec::kLanes) {
    PlainTile<M, kGroups, Format>(t, t.w + row / Vec::kLanes * t.group_bytes, token, t.y + token * t.y_stride + row,
                                  t.rows - row);
  }
  for (; row < t.rows; row += Vec::kLanes) {
    PlainTile<M, 1, Format>(t, t.w + row / Vec::kLanes * t.group_bytes, token, t.y + token * t.y_stride + row,
                            t.rows - row);
  }
}

template <int M, typename Format>
void RunTokens(const MatmulTask& t, int token) {
  if constexpr (requires { typename Format::Dot; }) {
    QuantisedTokens<M, Format>(t, token);
  } else {
    PlainTokens<M, Format>(t, token);
  }
}

// The last `left` < M tokens, from `token` on.
template <int M, typename Format>
void RunRest(const MatmulTask& t, int token, int left) {
  if constexpr (M > 1) {
    if (left == M - 1) return RunTokens<M - 1, Format>(t, token);
    RunRest<M - 1, Format>(t, token, left);
  }
}

template <typename Format>
void MatmulKernel(const MatmulTask& t) {
  int token = 0;
  for (; token + kMaxTokens <= t.tokens; token += kMaxTokens) RunTokens<kMaxTokens, Format>(t, token);
  if (token < t.tokens) RunRest<kMaxTokens, Format>(t, token, t.tokens - token);
}

}  // namespace
}  // namespace shoal::ops::cpu
