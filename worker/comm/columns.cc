// Tested by: tests/comm/collective_test.cc
#include "worker/comm/columns.h"

#include <algorithm>
#include <cstring>

namespace shoal::comm {

void CopyColumns(const float* from, size_t begin, size_t count, int32_t width, float* dst, int64_t stride) {
  for (size_t i = begin; i < begin + count;) {
    const size_t row = i / width, column = i % width;
    const size_t n = std::min(begin + count - i, width - column);
    std::memcpy(dst + row * stride + column, from + (i - begin), n * sizeof(float));
    i += n;
  }
}

}  // namespace shoal::comm
