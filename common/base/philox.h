// The generator behind rng.h, as it also runs on a device: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", SC'11). Integers only.
#pragma once

#include <cstdint>

#include "common/base/host_device.h"

namespace shoal {

struct PhiloxWords {
  uint32_t of[4];
};

// Four 32-bit words for a 64-bit key and a 128-bit counter.
SHOAL_HD constexpr PhiloxWords Philox4x32(uint64_t key, PhiloxWords c) {
  // The paper's multipliers and Weyl constants.
  constexpr uint64_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int i = 0; i < kRounds; ++i) {
    const uint64_t p0 = kMul0 * c.of[0], p1 = kMul1 * c.of[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.of[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.of[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

// rng.h's RandomBits.
SHOAL_HD constexpr uint64_t PhiloxBits(uint64_t seed, uint64_t stream, uint64_t index) {
  const PhiloxWords w = Philox4x32(seed, {{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                                           static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}});
  return static_cast<uint64_t>(w.of[1]) << 32 | w.of[0];
}

}  // namespace shoal
