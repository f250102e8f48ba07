// Sequences in a paged cache, for tests of attention.
#pragma once

#include <vector>

#include "common/base/rng.h"
#include "kernels/cuda/sm80/attention/tile.h"
#include "tests/kernels/cuda/attention_cases.h"
#include "tests/kernels/cuda/attention_lists.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {

// Values [0, count) of a position's query (which 0), key (1) or value (2).
inline std::vector<float> Contents(int id, int which, int position, size_t count) {
  return RandomBf16(count, static_cast<uint64_t>((id * 3 + which) * 100000 + position));
}

// A cache of just these parts' contexts, in blocks dealt out by `placement`, and rows of q and out, of which the last
// `padding` are no part's; what was never written is NaN.
struct AttentionMemory {
  AttentionMemory(const AttentionShape& shape, const std::vector<AttentionPart>& parts, uint64_t placement,
                  size_t padding = 0)
      : k(Size(shape, parts)),
        v(k.size()),
        q((Tokens(parts) + padding) * (shape.row() + 2)),
        out((Tokens(parts) + padding) * shape.row()) {
    std::vector<int32_t> free(k.size() / BlockSize(shape));
    for (size_t b = 0; b < free.size(); ++b) free[b] = static_cast<int32_t>(b);
    int row = 0;
    tables.reserve(free.size());  // stays where it is
    for (const AttentionPart& p : parts) {
      sequences.push_back({tables.data() + tables.size(), row, p.end - p.begin, p.begin});
      for (int at = 0; at < p.end; ++at) {
        if (at % shape.block_size == 0) {
          const size_t pick = RandomBits(placement, 9, tables.size()) % free.size();
          tables.push_back(free[pick]);
          free.erase(free.begin() + static_cast<std::ptrdiff_t>(pick));
        }
        WriteKv(shape, p.id, at);
        if (at >= p.begin) WriteQ(shape, p.id, at, row++);
      }
    }
    heads_begin = HeadsBegin(shape.q_to_kv, shape.kv_heads);
  }
  static size_t BlockSize(const AttentionShape& s) {
    return static_cast<size_t>(s.block_size) * static_cast<size_t>(s.kv_heads * s.head_dim);
  }
  static size_t Size(const AttentionShape& s, const std::vector<AttentionPart>& parts) {
    size_t blocks = 3;
    for (const AttentionPart& p : parts) blocks += static_cast<size_t>((p.end + s.block_size - 1) / s.block_size);
    return blocks * BlockSize(s);
  }
  static size_t Tokens(const std::vector<AttentionPart>& parts) {
    size_t tokens = 0;
    for (const AttentionPart& p : parts) tokens += static_cast<size_t>(p.end - p.begin);
    return tokens;
  }
  void WriteKv(const AttentionShape& s, int id, int at) {
    const size_t dim = static_cast<size_t>(s.head_dim), heads = static_cast<size_t>(s.kv_heads);
    const auto keys = Contents(id, 1, at, heads * dim), values = Contents(id, 2, at, heads * dim);
    for (size_t h = 0; h < heads; ++h) {
      const int64_t to =
          CacheOffset(tables.back(), at % s.block_size, static_cast<int>(h), s.kv_heads, s.block_size, s.head_dim);
      for (size_t d = 0; d < dim; ++d) {
        k.data()[to + static_cast<int64_t>(d)] = FromFloat<bf16>(keys[h * dim + d]);
        v.data()[to + static_cast<int64_t>(d)] = FromFloat<bf16>(values[h * dim + d]);
      }
    }
  }
  void WriteQ(const AttentionShape& s, int id, int at, int row) {
    const auto values = Contents(id, 0, at, s.row());
    for (size_t i = 0; i < s.row(); ++i) {
      q.data()[static_cast<size_t>(row) * (s.row() + 2) + i] = FromFloat<bf16>(values[i]);
    }
  }

  Buffer<bf16> k, v, q, out;
  std::vector<ops::AttentionSequence> sequences;
  std::vector<int32_t> tables, heads_begin;
};

}  // namespace shoal::cuda
