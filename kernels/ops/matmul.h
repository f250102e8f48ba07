// For each part p: y_p[t, n] = row_scale_p[n] * sum over k of x[t, k] * W_p[n, k] + bias_p[n], without those that are
// null.
// Several weights that share one input (q/k/v, gate/up) go in one call: one parallel region, one read of x.
// Plain weight types, those of one byte too, take x (f32) and sum in f32, in blocks of columns that are added in
// ascending order; quantised types take xq, multiply int8 by int8 exactly within each block of 32 and sum the scaled
// blocks in f32 in ascending order of k:
//   Q8_0: acc += (w.d * xq.scale) * dot;   Q4_0: the same with q - 8;   int4: with q - w.z;   Q4_1: acc += (w.d *
//   xq.scale) * dot + w.m * xq.sum.
// Exactness: a row's result depends on that row alone, not on `tokens`, the threads, or which parts share the call; k
// is never split over threads.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/quantise.h"
#include "kernels/ops/stream.h"
#include "kernels/ops/weight.h"

namespace shoal::ops {

inline constexpr int kMaxMatmulParts = 4;

struct MatmulPart {
  Weight w;          // [n, k]
  Acts y;            // [tokens, n] with row stride y_stride; must not alias x
  int64_t y_stride;  // in floats, >= n
};
struct MatmulArgs {
  ConstActs x;              // [tokens, k], contiguous; null when every part is quantised
  const QuantisedActs* xq;  // of the same x; null when no part is quantised
  MatmulPart parts[kMaxMatmulParts];
  int part_count;
  int tokens;
  int k;
  bool f32_out = false;  // y is f32 whatever activations are: logits
};
using MatmulFn = absl::Status (*)(Stream&, const MatmulArgs&);

}  // namespace shoal::ops
