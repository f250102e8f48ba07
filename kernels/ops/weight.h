// A weight matrix in a backend's own layout. Backends repack canonical rows once, at load (OpTable::pack_rows).
#pragma once

#include <cstdint>

#include "common/base/dtype.h"

namespace shoal::ops {

// W: [n, k], n output features, k input features. `data` is in the layout of the backend that packed it, 64-byte
// aligned. Of a row, embed and matmul take row_scale[row] times what `data` holds: matmul scales the row's whole sum,
// rounded to f32 before and after; embed each value, rounded to f32. matmul then adds bias[row], rounded to f32.
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t n = 0;
  int64_t k = 0;
  const float* row_scale = nullptr;  // [n]; null: 1
  const float* bias = nullptr;       // [n]; null: 0
};

}  // namespace shoal::ops
