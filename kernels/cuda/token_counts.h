// kernels/ops/token_counts.h on a device.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/token_counts.h"

namespace shoal::cuda {

// All arrays on the device. A call with hundreds of thousands of the same token takes a millisecond or so: its warps
// then wait for each other.
absl::Status Enqueue(DeviceStream stream, const ops::ClearCountsArgs& op);
absl::Status Enqueue(DeviceStream stream, const ops::CountTokensArgs& op);

// Counts lie in pairs in words of 32 bits, that of an even id in the low half: the word with n more generated tokens of
// one of them.
SHOAL_HD inline uint32_t WithGenerated(uint32_t word, int id, uint32_t n) {
  const int shift = id % 2 * 16;
  const uint32_t most = ops::kMostGenerated, generated = word >> shift & most;
  const uint32_t more = n < most - generated ? n : most - generated;
  return word + (more << shift);
}
SHOAL_HD inline uint32_t PromptBit(int id) { return uint32_t{ops::kInPrompt} << id % 2 * 16; }

}  // namespace shoal::cuda
