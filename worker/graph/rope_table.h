// cos and sin of rotary angles, as the rope_kv op wants them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/model/model_config.h"

namespace shoal::graph {

class RopeTable {
 public:
  // For contexts of up to `max_context` tokens (long rope differs by it).
  RopeTable(const model::Rope& rope, int32_t max_context)
      : frequencies_(rope.InverseFrequencies(max_context)), amplitude_(rope.amplitude) {}

  // Values in a row of cos, and of sin: rot_dim / 2.
  int64_t width() const { return static_cast<int64_t>(frequencies_.size()); }
  // amplitude * cos(position * frequency_i) and sin, in double, then rounded: the same for a position in every batch.
  // cos, sin: [positions, width()]
  void Fill(std::span<const int32_t> positions, float* cos, float* sin) const;

 private:
  std::vector<double> frequencies_;
  double amplitude_;
};

}  // namespace shoal::graph
