// A decoder's working memory: allocated once on its device, sized for the largest batch, on 256-byte borders.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/quantise.h"
#include "worker/device/device.h"

namespace shoal::graph {

// Sizes of one rank. Rows are tokens of the batch, except for samples.
struct ScratchShape {
  int64_t tokens, samples;
  int64_t hidden, q_dim, kv_dim, ffn;                                        // of this rank
  int64_t local_vocab, vocab;                                                // vocab: 0 where no logits are gathered
  int64_t attention_workspace;                                               // floats
  int64_t checksums = 1;                                                     // of one batch
  int64_t experts = 0, experts_used = 0, expert_ffn = 0, expert_tokens = 0;  // 0: none; tokens at once
  int64_t pooled = 0;                                                        // vectors of one batch
  DType acts = DType::kF32;
  bool quantises = true;  // some product takes quantised activations
};

// Of all arrays of a Scratch together.
int64_t ScratchBytes(const ScratchShape& shape);

struct Scratch {
  // ResourceExhausted: there is not so much memory.
  static absl::StatusOr<Scratch> Create(device::Device& device, const ScratchShape& shape);

  int32_t* ids = nullptr;         // [tokens]
  ops::Acts x;                    // [tokens, hidden] residual stream
  ops::Acts h;                    // [tokens, hidden] normed
  ops::Acts q;                    // [tokens, q_dim]
  ops::Acts k, v;                 // [tokens, kv_dim]
  ops::Acts attended;             // [tokens, q_dim]
  ops::Acts partial;              // [tokens, hidden] of o and down: this rank's part, then the sum
  ops::Acts gate, up;             // [tokens, ffn]
  ops::Acts picked;               // [samples, hidden] rows of x whose logits are wanted
  float* local_logits = nullptr;  // [samples, local_vocab]
  float* logits = nullptr;        // [samples, vocab]
  float* workspace = nullptr;
  uint64_t* sums = nullptr;          // [checksums, ops::kChecksumParts]
  float* router_logits = nullptr;    // [expert_tokens, experts]
  ops::Routes routes = {};           // of those tokens
  ops::Acts expert_x;                // [expert_tokens * used, hidden] their rows sorted, then what experts made
  ops::Acts expert_gate, expert_up;  // [expert_tokens * used, expert_ffn]
  float* pooled = nullptr;           // [pooled, hidden]
  ops::QuantisedActs acts = {};      // [tokens, widest input]

  device::Memory memory;  // of all of them
};

}  // namespace shoal::graph
