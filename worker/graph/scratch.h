// A decoder's working memory: allocated once, sized for the largest batch, on 64-byte borders.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "kernels/ops/quantise.h"

namespace shoal::graph {

// `count` values of T; null when there is no memory. Pages are touched when first used, so a rarely used size costs
// address space only.
template <typename T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

// Sizes of one rank. Rows are tokens of the batch, except for samples.
struct ScratchShape {
  int64_t tokens, samples;
  int64_t hidden, q_dim, kv_dim, ffn;  // of this rank
  int64_t local_vocab, vocab;          // vocab: 0 where no logits are gathered
  int64_t attention_workspace;         // floats
};

// Of all arrays of a Scratch together.
int64_t ScratchBytes(const ScratchShape& shape);

struct Scratch {
  explicit Scratch(const ScratchShape& shape);
  // False: an array could not be had, and nothing may be used.
  bool complete() const;

  AlignedArray<float> x;             // [tokens, hidden] residual stream
  AlignedArray<float> h;             // [tokens, hidden] normed
  AlignedArray<float> q;             // [tokens, q_dim]
  AlignedArray<float> k, v;          // [tokens, kv_dim]
  AlignedArray<float> attended;      // [tokens, q_dim]
  AlignedArray<float> partial;       // [tokens, hidden] of o and down: this rank's part, then the sum
  AlignedArray<float> gate, up;      // [tokens, ffn]
  AlignedArray<float> picked;        // [samples, hidden] rows of x whose logits are wanted
  AlignedArray<float> local_logits;  // [samples, local_vocab]
  AlignedArray<float> logits;        // [samples, vocab]
  AlignedArray<float> workspace;
  ops::QuantisedActs acts;  // [tokens, widest input]

 private:
  AlignedArray<int8_t> acts_q_;
  AlignedArray<float> acts_scale_, acts_sum_;
};

}  // namespace shoal::graph
