// The one way in which ranks add: elementwise, in f32, in rank order.
#pragma once

#include <cstddef>
#include <span>

namespace shoal::comm {

// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ...   for i in [0, count). At least one part; out aliases
// none.
void SumInOrder(std::span<const float* const> parts, size_t count, float* out);

}  // namespace shoal::comm
