// kernels/ops/matmul.h on a device, with activations in bf16:
//   y_p[t, n] = row_scale_p[n] * sum over k of x[t, k] * W_p[n, k] + bias_p[n]
// products exact, sums in f32, the scaled sum rounded before the bias is added, for each part p.
// Parts that share x (q/k/v, gate/up) go in one call: one launch for each type of weight among them.
// A result's bits depend on its row of x and its row of W alone: not on `tokens`, the tile, or which parts share the
// call. What makes it so is written in linear_schedule.h.
#pragma once

#include "common/base/dtype.h"
#include "kernels/cuda/lang.h"

namespace shoal::cuda {

inline constexpr int kMaxLinearParts = 4;

struct LinearPart {
  const void* w;     // [n, k] as PackLinear leaves it, 64-byte aligned
  DType type;        // all but kF32
  int n;             // 0: the part is absent
  bf16* y;           // [tokens, n], rows y_stride apart; or null:
  float* y_f32;      // the same without rounding to bf16. Neither may alias x
  int64_t y_stride;  // in elements, at least n

  const float* row_scale = nullptr;  // [n]; null: 1
  const float* bias = nullptr;       // [n]; null: 0
};
struct Linear {
  const bf16* x;  // [tokens, k], contiguous, 16-byte aligned
  LinearPart parts[kMaxLinearParts];
  int part_count;
  int tokens;
  int k;          // a multiple of 32
  int tile = -1;  // -1: chosen by shape; or one that all types have (linear::HasTile), for tests
};
absl::Status Enqueue(DeviceStream stream, const Linear& op);

// The layout of a weight in device memory; linear_layout.h has it. Types that are not quantised in blocks stay rows of
// k, as cuBLASLt takes them. Codes of e4m3 are numbers (a weight with one that is none is not loaded). PackLinear
// writes rows [row_begin, row_begin + rows) of a packed [n, k] matrix at `dst` (its start, host memory) from canonical
// rows at `src`. row_begin is a multiple of linear::kRowTile, and so is `rows` unless it ends the matrix. Calls for
// different rows of one matrix may run at the same time.
size_t LinearBytes(DType type, int64_t n, int64_t k);
void PackLinear(DType type, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst);

}  // namespace shoal::cuda
