// kernels/ops/checksum.h on a device: sums[p] = sum over the 32-bit words i of part p of mix(word, i), modulo 2^64, so
// that no order matters; part p has the words of threads [p, p + 1) * kChecksumThreads of each stride over the data.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/checksum.h"

namespace shoal::cuda {

inline constexpr int kChecksumThreads = 256;

// A bijection of (word, i) for i below 2^32, well mixed (the finaliser of MurmurHash3).
SHOAL_HD constexpr uint64_t ChecksumMix(uint32_t word, int64_t i) {
  uint64_t x = (static_cast<uint64_t>(i) << 32 | word) + 0x9e3779b97f4a7c15;
  x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
  return x ^ x >> 33;
}

absl::Status Enqueue(DeviceStream stream, const ops::ChecksumArgs& op);

}  // namespace shoal::cuda
