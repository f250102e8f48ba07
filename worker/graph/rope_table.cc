// Tested by: tests/graph/graph_test.cc
#include "worker/graph/rope_table.h"

#include <cmath>

namespace shoal::graph {

void RopeTable::Fill(std::span<const int32_t> positions, float* cos, float* sin) const {
  for (const int32_t position : positions) {
    for (const double frequency : frequencies_) {
      const double angle = position * frequency;
      *cos++ = static_cast<float>(amplitude_ * std::cos(angle));
      *sin++ = static_cast<float>(amplitude_ * std::sin(angle));
    }
  }
}

}  // namespace shoal::graph
