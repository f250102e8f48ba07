// Tested by: tests/graph/graph_test.cc
#include "worker/graph/scratch.h"

#include <algorithm>
#include <utility>

#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "kernels/ops/checksum.h"

namespace shoal::graph {
namespace {

constexpr int64_t kAlignment = 256;  // device::Memory's

// Gives out pieces one after another; counts when there is no memory to give.
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}
  void* Take(int64_t bytes) {
    const int64_t at = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return base_ == nullptr ? nullptr : base_ + at;
  }
  float* Floats(int64_t count) { return static_cast<float*>(Take(count * static_cast<int64_t>(sizeof(float)))); }
  int64_t used() const { return used_; }

 private:
  std::byte* const base_;
  int64_t used_ = 0;
};

void LayOut(const ScratchShape& s, Pieces& pieces, Scratch& to) {
  const auto acts = [&](int64_t rows, int64_t width) {
    return ops::Acts(pieces.Take(static_cast<int64_t>(RowBytes(s.acts, rows * width))));
  };
  to.ids = static_cast<int32_t*>(pieces.Take(s.tokens * static_cast<int64_t>(sizeof(int32_t))));
  to.x = acts(s.tokens, s.hidden);
  to.h = acts(std::max(s.tokens, s.samples), s.hidden);
  to.q = acts(s.tokens, s.q_dim);
  to.k = acts(s.tokens, s.kv_dim);
  to.v = acts(s.tokens, s.kv_dim);
  to.attended = acts(s.tokens, s.q_dim);
  to.partial = acts(s.tokens, s.hidden);
  to.gate = acts(s.tokens, s.ffn);
  to.up = acts(s.tokens, s.ffn);
  to.picked = acts(s.samples, s.hidden);
  to.local_logits = pieces.Floats(s.samples * s.local_vocab);
  to.logits = pieces.Floats(s.samples * s.vocab);
  to.workspace = pieces.Floats(s.attention_workspace);
  to.sums =
      static_cast<uint64_t*>(pieces.Take(s.checksums * ops::kChecksumParts * static_cast<int64_t>(sizeof(uint64_t))));
  const auto ints = [&](int64_t n) { return static_cast<int32_t*>(pieces.Take(n * int64_t{sizeof(int32_t)})); };
  const int64_t routed = s.expert_tokens * s.experts_used;
  if (s.experts > 0) {
    to.router_logits = pieces.Floats(s.expert_tokens * s.experts);
    to.routes = {pieces.Floats(routed), ints(routed), ints(routed), ints(s.experts + 1)};
    to.expert_x = acts(routed, s.hidden);
    to.expert_gate = acts(routed, s.expert_ffn);
    to.expert_up = acts(routed, s.expert_ffn);
  }
  to.pooled = pieces.Floats(s.pooled * s.hidden);
  if (!s.quantises) return;
  const int64_t widest = std::max({s.hidden, s.q_dim, s.ffn, s.expert_ffn});
  const int64_t rows = std::max({s.tokens, s.samples, routed}), blocks = (widest + kQuantBlock - 1) / kQuantBlock;
  to.acts = {static_cast<int8_t*>(pieces.Take(rows * blocks * kQuantBlock)), pieces.Floats(rows * blocks),
             pieces.Floats(rows * blocks)};
}

}  // namespace

int64_t ScratchBytes(const ScratchShape& shape) {
  Pieces pieces(nullptr);
  Scratch nowhere;
  LayOut(shape, pieces, nowhere);
  return pieces.used();
}

absl::StatusOr<Scratch> Scratch::Create(device::Device& device, const ScratchShape& shape) {
  Scratch scratch;
  SHOAL_ASSIGN_OR_RETURN(scratch.memory, device.Allocate(static_cast<size_t>(ScratchBytes(shape))));
  Pieces pieces(scratch.memory.data());
  LayOut(shape, pieces, scratch);
  return scratch;
}

}  // namespace shoal::graph
