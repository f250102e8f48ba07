// cos and sin of every row of a batch, as the rope_kv op wants them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/model/model_config.h"
#include "worker/graph/scratch.h"

namespace shoal::graph {

class RopeTable {
 public:
  RopeTable(const model::Rope& rope, int max_tokens);
  // False: there was no memory, and nothing may be used.
  bool complete() const { return cos_.get() != nullptr && sin_.get() != nullptr; }

  // cos(position * frequency_i) and sin, in double, then rounded: the same for a position in every batch.
  void Fill(std::span<const int32_t> positions);

  const float* cos() const { return cos_.get(); }  // [tokens, rot_dim / 2]
  const float* sin() const { return sin_.get(); }  // [tokens, rot_dim / 2]

 private:
  const std::vector<double> frequencies_;
  AlignedArray<float> cos_, sin_;
};

}  // namespace shoal::graph
