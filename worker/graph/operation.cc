#include "worker/graph/operation.h"

#include <array>

namespace shoal::graph {
namespace {

constexpr std::array<std::string_view, kOperations> kNames = {
    "waiting for a plan",
    "checking a plan",
    "waiting for sampled tokens",
    "waiting for activations of the previous stage",
    "copying blocks",
    "embedding",
    "all-reduce after embedding",
    "attention norm",
    "q, k and v",
    "norms of q and k",
    "rope and cache write",
    "attention",
    "attention output",
    "all-reduce after attention",
    "ffn norm",
    "gate and up",
    "activation",
    "down",
    "routing to experts",
    "experts",
    "all-reduce after ffn",
    "final norm",
    "head",
    "gathering logits",
    "pooling",
    "sampling",
    "posting tokens",
    "sending activations to the next stage",
    "handing over its answer",
    "launching a recorded step",
    "waiting for its device",
};
static_assert(!kNames.back().empty());

}  // namespace

std::string_view OperationName(uint32_t operation) {
  return operation < kNames.size() ? kNames[operation] : std::string_view("unknown");
}

}  // namespace shoal::graph
