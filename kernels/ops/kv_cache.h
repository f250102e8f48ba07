// The paged KV cache of one layer on one rank, as ops see it.
// Element (slot s, kv head h, dim d) of K lies at k + (block * heads + h) * block_size * head_dim + offset * head_dim +
// d, where block = s / block_size and offset = s % block_size; the same for V. So the tokens of one head in one block
// are contiguous: [block][kv_head][block_size][head_dim].
#pragma once

#include <cstdint>

#include "common/base/dtype.h"

namespace shoal::ops {

struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kF16;  // kF32 or kF16 or kBF16
  int block_size = 0;         // tokens per block, a power of two, >= 16
  int kv_heads = 0;           // of this rank
  int head_dim = 0;
};

}  // namespace shoal::ops
