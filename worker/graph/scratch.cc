#include "worker/graph/scratch.h"

#include <algorithm>
#include <iterator>

#include "common/base/dtype.h"

namespace shoal::graph {
namespace {

// Of the widest input that is quantised.
struct ActsShape {
  int64_t rows, blocks;
};
ActsShape ActsShapeOf(const ScratchShape& s) {
  const int64_t widest = std::max({s.hidden, s.q_dim, s.ffn});
  return {std::max(s.tokens, s.samples), (widest + kQuantBlock - 1) / kQuantBlock};
}

}  // namespace

int64_t ScratchBytes(const ScratchShape& s) {
  const int64_t floats = s.tokens * (3 * s.hidden + 2 * s.q_dim + 2 * s.kv_dim + 2 * s.ffn) +
                         s.samples * (s.hidden + s.local_vocab + s.vocab) + s.attention_workspace;
  const auto [rows, blocks] = ActsShapeOf(s);
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  return floats * kFloat + rows * blocks * (kQuantBlock + 2 * kFloat);
}

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
  const auto [rows, blocks] = ActsShapeOf(s);
  acts_q_ = AlignedArray<int8_t>(rows * blocks * kQuantBlock);
  acts_scale_ = AlignedArray<float>(rows * blocks);
  acts_sum_ = AlignedArray<float>(rows * blocks);
  acts = {acts_q_.get(), acts_scale_.get(), acts_sum_.get()};
}

bool Scratch::complete() const {
  const void* const all[] = {x.get(),
                             h.get(),
                             q.get(),
                             k.get(),
                             v.get(),
                             attended.get(),
                             partial.get(),
                             gate.get(),
                             up.get(),
                             picked.get(),
                             local_logits.get(),
                             logits.get(),
                             workspace.get(),
                             acts_q_.get(),
                             acts_scale_.get(),
                             acts_sum_.get()};
  return std::find(std::begin(all), std::end(all), nullptr) == std::end(all);
}

}  // namespace shoal::graph
