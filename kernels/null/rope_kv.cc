// Tested by tests/kernels/null_test.cc
#include "kernels/ops/rope_kv.h"

#include <cstring>

#include "kernels/null/null.h"

namespace shoal::ops::null {
namespace {

// A cache row has room: head_dim >= 2 elements of at least 2 bytes.
void Store(const KvLayer& c, void* cache, int64_t at, float value) {
  const uint32_t id = ToInteger(value);
  std::memcpy(static_cast<char*>(cache) + RowBytes(c.dtype, at), &id, sizeof id);
}

}  // namespace

absl::Status RopeKv(Stream& stream, const RopeKvArgs& a) {
  const KvLayer& c = a.cache;
  for (int64_t t = 0; t < a.tokens; ++t) {
    if (a.slots[t] < 0) continue;
    const int64_t block = a.slots[t] / c.block_size, offset = a.slots[t] % c.block_size;
    for (int64_t h = 0; h < c.kv_heads; ++h) {
      const int64_t at = ((block * c.kv_heads + h) * c.block_size + offset) * c.head_dim;
      Store(c, c.k, at, a.k[t * a.kv_stride + h * c.head_dim]);
      Store(c, c.v, at, a.v[t * a.kv_stride + h * c.head_dim]);
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
