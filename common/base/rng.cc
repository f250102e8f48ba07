#include "common/base/rng.h"

#include "common/base/philox.h"

namespace shoal {

std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> c) {
  const PhiloxWords w = Philox4x32(key, {{c[0], c[1], c[2], c[3]}});
  return {w.of[0], w.of[1], w.of[2], w.of[3]};
}

float SamplingUniform(uint64_t seed, uint32_t choice, uint32_t position, uint32_t draw) {
  const auto words = Philox(seed, {position, draw, choice, 0x73616d70u /* "samp" */});
  return static_cast<float>(words[0] >> 8) * (1.0f / 16777216.0f);
}

uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index) { return PhiloxBits(seed, stream, index); }

}  // namespace shoal
