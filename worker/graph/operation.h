// What a rank is doing right now, for whoever asks why it stands still. Small numbers, so that they fit a shared page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shoal::graph {

enum class Operation : uint32_t {
  kIdle,  // waiting for a plan
  kCheckPlan,
  kTakeTokens,
  kReceive,
  kCopyBlocks,
  kEmbed,
  kReduceEmbedding,
  kAttentionNorm,
  kQkv,
  kQkNorm,
  kRope,
  kAttention,
  kAttentionOutput,
  kReduceAttention,
  kFfnNorm,
  kGateUp,
  kActivation,
  kDown,
  kRoute,
  kExperts,
  kReduceFfn,
  kFinalNorm,
  kHead,
  kGatherLogits,
  kPool,
  kSample,
  kPostTokens,
  kSend,
  kAnswer,  // handing its result to the agent
  kGraph,   // launching a recorded step
  kAwait,   // everything is enqueued; the device has not come so far
};
inline constexpr size_t kOperations = static_cast<size_t>(Operation::kAwait) + 1;

// "attention", "all-reduce after attention", ...; "unknown" for any other number.
std::string_view OperationName(uint32_t operation);

}  // namespace shoal::graph
