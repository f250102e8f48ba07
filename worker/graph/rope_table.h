// cos and sin of every row of a batch, as the rope_kv op wants them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/model/model_config.h"

namespace shoal::graph {

class RopeTable {
 public:
  RopeTable(const model::Rope& rope, int max_tokens);

  // cos(position * frequency_i) and sin, in double, then rounded: the same for a position in every batch.
  void Fill(std::span<const int32_t> positions);

  const float* cos() const { return cos_.data(); }  // [tokens, rot_dim / 2]
  const float* sin() const { return sin_.data(); }  // [tokens, rot_dim / 2]

 private:
  const std::vector<double> frequencies_;
  std::vector<float> cos_, sin_;
};

}  // namespace shoal::graph
