#include "common/base/rng.h"

namespace shoal {
namespace {

// The paper's multipliers and Weyl constants.
constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

}  // namespace

std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> c) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int i = 0; i < kRounds; ++i) {
    const uint64_t p0 = static_cast<uint64_t>(kMul0) * c[0];
    const uint64_t p1 = static_cast<uint64_t>(kMul1) * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

float SamplingUniform(uint64_t seed, uint32_t choice, uint32_t position, uint32_t draw) {
  const auto words = Philox(seed, {position, draw, choice, 0x73616d70u /* "samp" */});
  return static_cast<float>(words[0] >> 8) * (1.0f / 16777216.0f);
}

uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto w = Philox(seed, {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                               static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)});
  return static_cast<uint64_t>(w[1]) << 32 | w[0];
}

}  // namespace shoal
