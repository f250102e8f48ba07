// The null backend: the shapes of a model without its arithmetic. The hidden state carries one small integer, the KV
// blocks keep the ids that were written, and attention is a hash of the ids read back through the block table. So the
// text it makes is a function of (tokens, positions, what the tables point at): a wrong table, copy or order changes
// it, and no layout of ranks does.
//
// Every value is an integer below 2^24, exact in f32, so that sums over ranks are exact in any order:
//   embed      x[t, 0] = id, the rest 0                       (0 outside the shard); nothing is added
//   rms_norm   x[t, 0] = (x + add)[t, 0] mod 2^20; y[t, 0] = x[t, 0], the rest 0
//   layer_norm the same
//   quantise   scale[t, b] = x[t, 32 b]
//   matmul     y[t, n] = sum over b of x[t, 32 b], at every n that is a multiple of 32 (each head's start); the entries
//              between are left as they are
//   rope_kv    the first element of each k and v head, as uint32, at the start of its cache row
//   attention  out[t, h, 0] = 12 bits of a hash of the cached ids of positions 0..pos and of the head's number in the
//              whole model, the rest of the head 0: the output projection sums them over heads and ranks (<= 256 heads)
//   glu        0, so the feed-forward part adds nothing; nor do experts: expert_matmul leaves its rows as they are,
//              join_experts gives 0
//   soft_cap   nothing
//   pool       y[s, 0] = x[t, 0] of the sequence's last row t, the rest 0
//   sample     a hash of logits[r, 0], of `uniform` when the temperature is not 0, of the penalties and all counts when
//              there are penalties, mod vocab; the next id that the mask allows. Its rank is 1, its log-probability 0;
//              the top ids are it and those behind it, each one lower by 1
// Weights are never read: a packed matrix has no bytes, and what it was made of need not be read. Thread-safe: no
// state.
#pragma once

#include "kernels/ops/op_table.h"

namespace shoal::ops::null {

const OpTable& Table();

absl::Status Embed(Stream&, const EmbedArgs&);
absl::Status RmsNorm(Stream&, const RmsNormArgs&);
absl::Status LayerNorm(Stream&, const LayerNormArgs&);
absl::Status Quantise(Stream&, const QuantiseArgs&);
absl::Status Matmul(Stream&, const MatmulArgs&);
absl::Status RopeKv(Stream&, const RopeKvArgs&);
absl::Status Attention(Stream&, const AttentionArgs&);
absl::Status Glu(Stream&, const GluArgs&);
absl::Status ExpertMatmul(Stream&, const ExpertMatmulArgs&);
absl::Status JoinExperts(Stream&, const JoinExpertsArgs&);
absl::Status SoftCap(Stream&, const SoftCapArgs&);
absl::Status Pool(Stream&, const PoolArgs&);
absl::Status Sample(Stream&, const SampleArgs&);
absl::Status CopyBlocks(Stream&, const CopyBlocksArgs&);

inline constexpr uint32_t kHiddenMask = (1u << 20) - 1;
inline constexpr uint32_t kHeadMask = (1u << 12) - 1;

// The hidden integer that a float carries; anything that is none (a bug upstream, garbage) maps to some integer too.
inline uint32_t ToInteger(float x) {
  return x > -16777216.0f && x < 16777216.0f ? static_cast<uint32_t>(static_cast<int32_t>(x)) : 0xBADu;
}

// Folds `value` into `hash`; a 64-bit finaliser of the SplitMix kind (Steele et al., OOPSLA 2014).
inline uint64_t Mix(uint64_t hash, uint64_t value) {
  uint64_t z = hash * 0x9E3779B97F4A7C15u + value + 0x632BE59BD9B4E019u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace shoal::ops::null
