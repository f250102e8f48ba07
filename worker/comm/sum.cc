#include "worker/comm/sum.h"

#include <algorithm>
#include <cstring>

namespace shoal::comm {
namespace {

constexpr size_t kBlock = 2048;  // floats: stays in the first-level cache over all parts

}  // namespace

void SumInOrder(std::span<const float* const> parts, size_t count, float* __restrict out) {
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    float* __restrict to = out + begin;
    if (parts.size() == 1) {
      std::memcpy(to, parts[0] + begin, n * sizeof(float));
      continue;
    }
    const float* a = parts[0] + begin;
    const float* b = parts[1] + begin;
    for (size_t i = 0; i < n; ++i) to[i] = a[i] + b[i];
    for (size_t p = 2; p < parts.size(); ++p) {
      const float* c = parts[p] + begin;
      for (size_t i = 0; i < n; ++i) to[i] += c[i];
    }
  }
}

}  // namespace shoal::comm
