// Activations as a library multiplies them with weights in fp8 (library_gemm.h): e4m3, with a factor for each token.
//   scale[t] = max over k of |x[t, k]| / 448, 1 where that is below the normal numbers (a row of zeros)
//   codes[t, k] = e4m3(x[t, k] * (1 / scale[t])), to nearest even      each step rounded to f32 before
// 448 is the largest number of e4m3. A row's result depends on the row alone. A row with an infinity has codes that are
// not numbers, as one with a NaN has: what is multiplied by it shows.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct QuantiseRows {
  const bf16* x;   // [tokens, dim], contiguous, 16-byte aligned
  uint8_t* codes;  // [tokens, dim], contiguous, 8-byte aligned
  float* scale;    // [tokens]
  int tokens;
  int dim;  // a multiple of 8
};
absl::Status Enqueue(DeviceStream stream, const QuantiseRows& op);

}  // namespace shoal::cuda
