#include "worker/graph/rope_table.h"

#include <cmath>

namespace shoal::graph {

RopeTable::RopeTable(const model::Rope& rope, int max_tokens)
    : frequencies_(rope.InverseFrequencies()),
      cos_(static_cast<int64_t>(frequencies_.size()) * max_tokens),
      sin_(static_cast<int64_t>(frequencies_.size()) * max_tokens) {}

void RopeTable::Fill(std::span<const int32_t> positions) {
  size_t at = 0;
  for (const int32_t position : positions) {
    for (const double frequency : frequencies_) {
      const double angle = position * frequency;
      cos_.get()[at] = static_cast<float>(std::cos(angle));
      sin_.get()[at++] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace shoal::graph
