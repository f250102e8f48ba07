// What tells apart memory that several ranks should hold alike: sums[p] of every bit of a part of the data and of its
// place. Each backend has a function of its own: only what the same backend made can be compared.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

inline constexpr int kChecksumParts = 32;

struct ChecksumArgs {
  const void* data;  // 16-byte aligned
  int64_t bytes;     // a multiple of 4
  uint64_t* sums;    // [kChecksumParts], out
};
using ChecksumFn = absl::Status (*)(Stream&, const ChecksumArgs&);

// Of every backend whose memory is the host's.
absl::Status ChecksumOnHost(Stream& stream, const ChecksumArgs& args);

}  // namespace shoal::ops
