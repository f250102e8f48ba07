// A mixture of experts: each token goes to a few feed-forward networks and takes a weighted sum of what they give
// (Shazeer et al., arXiv 1701.06538). Three ops, with rows sorted by expert between them, so that each expert
// multiplies a run of rows:
//   route   of each token, from its logits: p = softmax over all experts; those with the `used` largest logits (ties:
//           lower id first), falling; their weight is p, over the sum of p of those used when `renormalise`.
//           Row i of the sorted ones is the i-th (token, place) by (expert, token, place).
//   matmul  of each sorted row: y[i, :] = W[expert of i] x[i, :], as ops::Matmul has it for that row alone
//   join    out[t, :] = sum over the places j of t, in order, of weight[t, j] * y[sorted row of (t, j), :], in f32
// Exactness: what a token gets depends on that token alone; softmax and its sums in double.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/quantise.h"
#include "kernels/ops/stream.h"
#include "kernels/ops/weight.h"

namespace shoal::ops {

inline constexpr int kMaxExperts = 512, kMaxExpertsUsed = 16;

// Where everybody goes; in memory of the ops. rows = tokens * used.
struct Routes {
  float* weights;   // [tokens, used]
  int32_t* sorted;  // [tokens, used]: the sorted row of (token, place)
  int32_t* tokens;  // [rows]: the token of each sorted row, as gather_rows takes it
  int32_t* first;   // [experts + 1]: the sorted rows of expert e are [first[e], first[e + 1])
};
struct RouteArgs {
  const float* logits;  // [tokens, experts], contiguous
  Routes out;
  int tokens, experts, used;
  bool renormalise;
};
using RouteFn = absl::Status (*)(Stream&, const RouteArgs&);

// One matrix of every expert: that of expert e is `first`, with its data e * stride bytes on, its scales and its bias
// e * n floats on.
struct ExpertWeights {
  Weight first;
  int64_t stride;
};
inline Weight WeightOf(const ExpertWeights& w, int64_t e) {
  Weight out = w.first;
  out.data = static_cast<const char*>(out.data) + e * w.stride;
  if (out.row_scale != nullptr) out.row_scale += e * out.n;
  if (out.bias != nullptr) out.bias += e * out.n;
  return out;
}
inline constexpr int kMaxExpertParts = 2;
struct ExpertMatmulArgs {
  ConstActs x;              // [rows, k], contiguous, sorted; null when the weights take quantised activations
  const QuantisedActs* xq;  // of the same x; null when they do not
  struct Part {
    ExpertWeights w;
    Acts y;                  // [rows, n], contiguous; must not alias x
  } parts[kMaxExpertParts];  // of one type and one n
  int part_count;
  const int32_t* first;  // Routes::first
  int rows, k, experts;
};
using ExpertMatmulFn = absl::Status (*)(Stream&, const ExpertMatmulArgs&);

struct JoinExpertsArgs {
  ConstActs y;            // [tokens * used, dim], sorted
  const float* weights;   // Routes::weights
  const int32_t* sorted;  // Routes::sorted
  Acts out;               // [tokens, dim]; must not alias y
  int tokens, used, dim;
};
using JoinExpertsFn = absl::Status (*)(Stream&, const JoinExpertsArgs&);

// f32 in host memory.
absl::Status RouteOnHost(Stream& stream, const RouteArgs& args);
absl::Status JoinExpertsOnHost(Stream& stream, const JoinExpertsArgs& args);

}  // namespace shoal::ops
