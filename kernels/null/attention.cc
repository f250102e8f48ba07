// Tested by tests/kernels/null_test.cc
#include "kernels/ops/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/null/null.h"

namespace shoal::ops::null {
namespace {

uint32_t Load(const KvLayer& c, const void* cache, int64_t at) {
  uint32_t id;
  std::memcpy(&id, static_cast<const char*>(cache) + RowBytes(c.dtype, at), sizeof id);
  return id;
}

// The heads [head_begin, head_end) share one kv head. The hash of a prefix goes on from that of the shorter one, so one
// pass over the context serves all rows.
void AttendGroup(const AttentionArgs& a, const AttentionSequence& s, int head_begin, int head_end) {
  const KvLayer& c = a.cache;
  uint64_t hash = 0;
  for (int p = 0; p < s.position + s.row_count; ++p) {
    const int64_t block = s.block_table[p / c.block_size];
    const int64_t row = (block * c.kv_heads + a.q_to_kv[head_begin]) * c.block_size + p % c.block_size;
    hash = Mix(Mix(hash, Load(c, c.k, row * c.head_dim)), Load(c, c.v, row * c.head_dim));
    if (p < s.position) continue;
    const int64_t token = s.row_begin + p - s.position;
    for (int h = head_begin; h < head_end; ++h) {
      float* out = a.out + (token * a.q_heads + h) * c.head_dim;
      std::fill(out, out + c.head_dim, 0.0f);
      out[0] = static_cast<float>(Mix(hash, static_cast<uint64_t>(a.q_head_begin + h)) & kHeadMask);
    }
  }
}

}  // namespace

absl::Status Attention(Stream& stream, const AttentionArgs& a) {
  for (int i = 0; i < a.sequence_count; ++i) {
    for (int begin = 0, end = 0; begin < a.q_heads; begin = end) {
      while (end < a.q_heads && a.q_to_kv[end] == a.q_to_kv[begin]) ++end;
      AttendGroup(a, a.sequences[i], begin, end);
    }
    stream.Advance();
  }
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
