// Paged attention on Vec: the query heads of one kv head, for some rows of one sequence, over the context splits
// [split_begin, split_end). Per tile of kKeyTile keys at an absolute position, K and V are widened to f32 once and
// serve all rows and heads; online softmax (Milakov & Gimelshein, arXiv 1805.02867) joins the tiles of a split, the
// same rescaling joins the splits, both in ascending order, so a row's result shows neither the other rows nor the
// task's cut. Included by set_*.cc after a vec_*.h; everything is local to that file.
#pragma once

#include "kernels/cpu/kernel_set.h"
#include "kernels/cpu/row_kernels.h"

namespace shoal::ops::cpu {
namespace {

// As ops::kKeyTile and kContextSplit, which cannot be included here; set_*.cc's caller asserts that they agree.
inline constexpr int kTile = 32;
inline constexpr int kSplit = 1024;

// Rows lie Padded(head_dim) floats apart: a power-of-two distance would crowd them into a few sets of the cache.
struct AttendScratch {
  alignas(64) float k[kTile * kMaxHeadDim];
  alignas(64) float v[kTile * kMaxHeadDim];
  alignas(64) float q[kMaxAttendStates * kMaxHeadDim];
  alignas(64) float acc[kMaxAttendStates * kMaxHeadDim];    // of the current split
  alignas(64) float total[kMaxAttendStates * kMaxHeadDim];  // of the splits before
  float m[kMaxAttendStates], l[kMaxAttendStates];
  float total_m[kMaxAttendStates], total_l[kMaxAttendStates];
};

inline int Padded(int head_dim) { return (head_dim + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes; }

// What row `row` of the task sees: [FirstKey, EndKey).
inline int EndKey(const AttendTask& t, int row) { return t.keys > 0 ? t.keys : t.position + row + 1; }
inline int FirstKey(const AttendTask& t, int row) {
  const int first = t.position + row + 1 - t.window;
  return t.window > 0 && first > 0 ? first : 0;
}

inline Vec LoadCached(DType type, const uint8_t* p, int at) {
  if (type == DType::kF32) return Vec::Load(reinterpret_cast<const float*>(p) + at);
  return type == DType::kF16 ? Vec::LoadF16(p + 2 * at) : Vec::LoadBF16(p + 2 * at);
}

// dst[0, head_dim) = one cached row, then zeros up to the padded length.
inline void Widen(DType type, const uint8_t* src, int head_dim, float* dst) {
  int d = 0;
  for (; d + Vec::kLanes <= head_dim; d += Vec::kLanes) LoadCached(type, src, d).Store(dst + d);
  if (d == head_dim) return;
  alignas(64) uint8_t rest[Vec::kLanes * 4] = {};
  const int size = type == DType::kF32 ? 4 : 2;
  for (int i = 0; i < (head_dim - d) * size; ++i) rest[i] = src[d * size + i];
  LoadCached(type, rest, 0).Store(dst + d);
}

// Keys [begin, begin + count) of the sequence.
inline void WidenTile(const AttendTask& t, int begin, int count, AttendScratch& s) {
  const auto type = static_cast<DType>(t.dtype);
  const int padded = Padded(t.head_dim);
  const int64_t row_bytes = static_cast<int64_t>(t.head_dim) * (type == DType::kF32 ? 4 : 2);
  for (int i = 0; i < count;) {  // one run of positions that share a block at a time
    const int offset = (begin + i) % t.block_size;
    const int64_t block = t.block_table[(begin + i) / t.block_size];
    int64_t at = ((block * t.kv_heads + t.kv_head) * t.block_size + offset) * row_bytes;
    const int end = t.block_size - offset < count - i ? i + t.block_size - offset : count;
    for (; i < end; ++i, at += row_bytes) {
      Widen(type, t.k + at, t.head_dim, s.k + i * padded);
      Widen(type, t.v + at, t.head_dim, s.v + i * padded);
    }
  }
}

// weights[i] = exp(score_i - m) for the tile's keys [first, end), 0 for others; updates m and l; returns acc's
// rescaling.
inline float TileSoftmax(const AttendTask& t, AttendScratch& s, int state, int first, int end, float* weights) {
  constexpr int kVectors = kTile / Vec::kLanes;
  const int padded = Padded(t.head_dim);
  const Vec scale = Vec::Set(t.scale), none = Vec::Set(-__builtin_inff());
  Vec score[kVectors], max = none;
  for (int g = 0; g < kVectors; ++g) {
    score[g] = none;
    if (g * Vec::kLanes >= end) continue;
    Vec dot[Vec::kLanes];
    for (int i = 0; i < Vec::kLanes; ++i) dot[i] = Vec::Set(0);
    for (int d = 0; d < padded; d += Vec::kLanes) {
      const Vec q = Vec::Load(s.q + state * padded + d);
#pragma GCC unroll 16
      for (int i = 0; i < Vec::kLanes; ++i)
        dot[i] = Fma(q, Vec::Load(s.k + (g * Vec::kLanes + i) * padded + d), dot[i]);
    }
    Vec scaled = Mul(ReduceEach(dot), scale);
    if (t.soft_cap > 0) scaled = SoftCap(scaled, Vec::Set(t.soft_cap));
    score[g] = Head(end - g * Vec::kLanes, scaled, none);
    if (first > g * Vec::kLanes) score[g] = Head(first - g * Vec::kLanes, none, score[g]);
    max = Max(max, score[g]);
  }
  const float m = ReduceMax(Max(Vec::Set(s.m[state]), max));
  Vec sum = Vec::Set(0);
  for (int g = 0; g < kVectors; ++g) {
    const Vec w = Exp(Sub(score[g], Vec::Set(m)));
    w.Store(weights + g * Vec::kLanes);
    sum = Add(sum, w);
  }
  alignas(64) float rescale[Vec::kLanes];
  Exp(Vec::Set(s.m[state] - m)).Store(rescale);
  s.m[state] = m;
  s.l[state] = s.l[state] * rescale[0] + ReduceAdd(sum);
  return rescale[0];
}

inline void AttendTile(const AttendTask& t, AttendScratch& s, int state, int first, int end) {
  alignas(64) float weights[kTile];
  const Vec rescale = Vec::Set(TileSoftmax(t, s, state, first, end, weights));
  constexpr int kStep = 64 / Vec::kLanes;  // vectors of the head that stay in registers over the tile's keys
  const int padded = Padded(t.head_dim);
  int d = 0;
  for (; d + kStep * Vec::kLanes <= padded; d += kStep * Vec::kLanes) {
    Vec acc[kStep];
    for (int i = 0; i < kStep; ++i) acc[i] = Mul(Vec::Load(s.acc + state * padded + d + i * Vec::kLanes), rescale);
    for (int key = first; key < end; ++key) {
      const Vec w = Vec::Set(weights[key]);
#pragma GCC unroll 8
      for (int i = 0; i < kStep; ++i) acc[i] = Fma(w, Vec::Load(s.v + key * padded + d + i * Vec::kLanes), acc[i]);
    }
    for (int i = 0; i < kStep; ++i) acc[i].Store(s.acc + state * padded + d + i * Vec::kLanes);
  }
  for (; d < padded; d += Vec::kLanes) {
    Vec acc = Mul(Vec::Load(s.acc + state * padded + d), rescale);
    for (int key = first; key < end; ++key) acc = Fma(Vec::Set(weights[key]), Vec::Load(s.v + key * padded + d), acc);
    acc.Store(s.acc + state * padded + d);
  }
}

// One split for all states.
inline void AttendSplit(const AttendTask& t, AttendScratch& s, int split) {
  const int padded = Padded(t.head_dim), states = t.rows * t.heads;
  for (int i = 0; i < states; ++i) {
    s.m[i] = -__builtin_inff();
    s.l[i] = 0;
    for (int d = 0; d < padded; d += Vec::kLanes) Vec::Set(0).Store(s.acc + i * padded + d);
  }
  const int keys = EndKey(t, t.rows - 1);
  const int end = keys < (split + 1) * kSplit ? keys : (split + 1) * kSplit;
  const int seen = FirstKey(t, 0) / kTile * kTile;  // the first tile that any row sees
  for (int begin = seen > split * kSplit ? seen : split * kSplit; begin < end; begin += kTile) {
    WidenTile(t, begin, end - begin < kTile ? end - begin : kTile, s);
    for (int row = 0; row < t.rows; ++row) {
      const int first = FirstKey(t, row) - begin, last = EndKey(t, row) - begin;
      if (last <= 0 || first >= kTile) continue;
      for (int h = 0; h < t.heads; ++h) {
        AttendTile(t, s, row * t.heads + h, first > 0 ? first : 0, last < kTile ? last : kTile);
      }
    }
  }
}

// (m, l, acc) += (m2, l2, acc2), a later split's. The one place where splits join.
inline void FoldSplit(float& m, float& l, float* acc, float m2, float l2, const float* acc2, int head_dim) {
  const float max = m > m2 ? m : m2;
  alignas(64) float a[Vec::kLanes], b[Vec::kLanes];
  Exp(Vec::Set(m - max)).Store(a);
  Exp(Vec::Set(m2 - max)).Store(b);
  m = max;
  l = l * a[0] + l2 * b[0];
  for (int d = 0; d < head_dim; d += Vec::kLanes) {
    const Vec old = Mul(LoadSome(acc + d, head_dim - d), Vec::Set(a[0]));
    StoreSome(Fma(LoadSome(acc2 + d, head_dim - d), Vec::Set(b[0]), old), acc + d, head_dim - d);
  }
}

inline void WriteHead(const float* acc, float l, int head_dim, float* out) {
  for (int d = 0; d < head_dim; d += Vec::kLanes) {
    StoreSome(Div(LoadSome(acc + d, head_dim - d), Vec::Set(l)), out + d, head_dim - d);
  }
}

void AttendKernel(const AttendTask& t) {
  AttendScratch s;
  const int padded = Padded(t.head_dim), states = t.rows * t.heads;
  for (int i = 0; i < states; ++i) {
    const float* q = t.q + i / t.heads * t.q_stride + static_cast<int64_t>(i % t.heads) * t.head_dim;
    for (int d = 0; d < padded; d += Vec::kLanes) {
      LoadSome(q + d, t.head_dim - d).Store(s.q + i * padded + d);
      Vec::Set(0).Store(s.total + i * padded + d);
    }
    s.total_m[i] = -__builtin_inff();
    s.total_l[i] = 0;
  }
  for (int split = t.split_begin; split < t.split_end; ++split) {
    AttendSplit(t, s, split);
    for (int i = 0; i < states; ++i) {
      if (t.partial != nullptr) {
        float* out = t.partial + static_cast<int64_t>(i) * (t.head_dim + 2);
        out[0] = s.m[i];
        out[1] = s.l[i];
        for (int d = 0; d < t.head_dim; ++d) out[2 + d] = s.acc[i * padded + d];
      } else if (EndKey(t, i / t.heads) > split * kSplit && FirstKey(t, i / t.heads) < (split + 1) * kSplit) {
        FoldSplit(s.total_m[i], s.total_l[i], s.total + i * padded, s.m[i], s.l[i], s.acc + i * padded, t.head_dim);
      }
    }
  }
  if (t.partial != nullptr) return;
  for (int i = 0; i < states; ++i) {
    float* out = t.out + i / t.heads * t.out_stride + static_cast<int64_t>(i % t.heads) * t.head_dim;
    WriteHead(s.total + i * padded, s.total_l[i], t.head_dim, out);
  }
}

void FoldKernel(const FoldTask& t) {
  alignas(64) float total[kMaxHeadDim] = {};
  float m = -__builtin_inff(), l = 0;
  for (int split = t.first; split < t.splits; ++split) {
    const float* p = t.partial + split * t.stride;
    FoldSplit(m, l, total, p[0], p[1], p + 2, t.head_dim);
  }
  WriteHead(total, l, t.head_dim, t.out);
}

}  // namespace
}  // namespace shoal::ops::cpu
