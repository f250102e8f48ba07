// Parts of a matrix, in pieces, to their place in it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal::comm {

// Values [begin, begin + count) of a contiguous [rows, width] go to their rows and columns of dst, whose rows lie
// `stride` values apart. `from` points at the first of them.
void CopyColumns(const float* from, size_t begin, size_t count, int32_t width, float* dst, int64_t stride);

}  // namespace shoal::comm
