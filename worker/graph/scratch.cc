#include "worker/graph/scratch.h"

#include <algorithm>

#include "common/base/dtype.h"

namespace shoal::graph {

Scratch::Scratch(const ScratchShape& s)
    : x(s.tokens * s.hidden),
      h(s.tokens * s.hidden),
      q(s.tokens * s.q_dim),
      k(s.tokens * s.kv_dim),
      v(s.tokens * s.kv_dim),
      attended(s.tokens * s.q_dim),
      partial(s.tokens * s.hidden),
      gate(s.tokens * s.ffn),
      up(s.tokens * s.ffn),
      picked(s.samples * s.hidden),
      local_logits(s.samples * s.local_vocab),
      logits(s.samples * s.vocab),
      workspace(s.attention_workspace) {
  const int64_t rows = std::max(s.tokens, s.samples);
  const int64_t widest = std::max({s.hidden, s.q_dim, s.ffn});
  const int64_t blocks = (widest + kQuantBlock - 1) / kQuantBlock;
  acts_q_ = AlignedArray<int8_t>(rows * blocks * kQuantBlock);
  acts_scale_ = AlignedArray<float>(rows * blocks);
  acts_sum_ = AlignedArray<float>(rows * blocks);
  acts = {acts_q_.get(), acts_scale_.get(), acts_sum_.get()};
}

}  // namespace shoal::graph
