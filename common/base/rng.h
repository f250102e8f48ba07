// Counter-based random numbers: a value is a pure function of its key, so that a replay, another layout or another
// device draws the same. Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11).
#pragma once

#include <array>
#include <cstdint>

namespace shoal {

// Four 32-bit words for a 64-bit key and a 128-bit counter.
std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter);

// A uniform number in [0, 1) with 24 random bits, for draw number `draw` at token position `position` of choice
// `choice` of the request with this seed. The only source of randomness of sampling.
float SamplingUniform(uint64_t seed, uint32_t choice, uint32_t position, uint32_t draw);

// 64 random bits keyed by (seed, stream, index); dummy weights and tests.
uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index);

}  // namespace shoal
