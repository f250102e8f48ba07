// Tested by: tests/kernels/cuda/token_counts_test.cc
// A thread for each token. Equal ones of a warp are added once, by the lowest lane of them, and few warps walk over
// many tokens: so a word that all tokens meet in is fought for by few. Integer sums up to a limit do not depend on the
// order.
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/token_counts.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256, kMaxBlocks = 32;
constexpr int kCountsPerVector = 8;  // of 16 bytes

__global__ void __launch_bounds__(kRowThreads) ClearRow(const ops::ClearCountsArgs op) {
  const int32_t place = op.places[blockIdx.x];
  const int64_t stride = ops::CountsStride(op.vocab) / kCountsPerVector, at = RowVector();
  if (place < 0 || at >= stride) return;
  reinterpret_cast<uint4*>(op.counts)[place * stride + at] = uint4{0, 0, 0, 0};
}

__device__ void AddGenerated(uint32_t* word, int id, uint32_t n) {
  uint32_t seen = *word, assumed;
  do {
    assumed = seen;
    const uint32_t next = WithGenerated(assumed, id, n);
    if (next == assumed) return;  // at the limit, where it stays
    seen = atomicCAS(word, assumed, next);
  } while (seen != assumed);
}

__global__ void __launch_bounds__(kThreads) CountToken(const ops::CountTokensArgs op) {
  const int lane = static_cast<int>(threadIdx.x) % 32, step = static_cast<int>(gridDim.x) * kThreads;
  const int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x) - lane;
  const int64_t words = ops::CountsStride(op.vocab) / 2;
  for (int begin = first; begin < op.count; begin += step) {
    const int i = begin + lane;
    const int32_t place = i < op.count ? op.places[i] : -1, id = i < op.count ? op.tokens[i] : -1;
    const bool counted = place >= 0 && id >= 0 && id < op.vocab;
    const uint32_t equal =
        MatchAny(counted ? static_cast<uint64_t>(place) << 32 | static_cast<uint32_t>(id) : ~uint64_t{0});
    if (counted && (equal & ((1u << lane) - 1)) == 0) {
      uint32_t* const word = reinterpret_cast<uint32_t*>(op.counts) + place * words + id / 2;
      if (op.in_prompt) {
        atomicOr(word, PromptBit(id));
      } else {
        AddGenerated(word, id, static_cast<uint32_t>(__popc(equal)));
      }
    }
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::ClearCountsArgs& op) {
  if (op.count == 0) return absl::OkStatus();
  return Launch(stream, "clear_counts", RowGrid(op.count, ops::CountsStride(op.vocab) / kCountsPerVector), ClearRow,
                op);
}

absl::Status Enqueue(DeviceStream stream, const ops::CountTokensArgs& op) {
  if (op.count == 0) return absl::OkStatus();
  const int blocks = min((op.count + kThreads - 1) / kThreads, kMaxBlocks);
  return Launch(stream, "count_tokens", LaunchShape{dim3{static_cast<unsigned>(blocks)}, dim3{kThreads}, 0}, CountToken,
                op);
}

}  // namespace shoal::cuda
