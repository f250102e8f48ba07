// The same for every backend whose memory is the host's. Tested by tests/kernels/experts_test.cc
#include "kernels/ops/experts.h"

#include <algorithm>
#include <cmath>

namespace shoal::ops {
namespace {

struct Choice {
  int32_t expert[kMaxExpertsUsed];
};

// The experts of one token, falling, and their weights.
Choice Choose(const float* logits, int experts, int used, bool renormalise, float* weights) {
  Choice chosen;
  double total = 0, sum = 0, p[kMaxExpertsUsed];
  const double max = *std::max_element(logits, logits + experts);
  for (int e = 0; e < experts; ++e) total += std::exp(logits[e] - max);
  for (int j = 0; j < used; ++j) {
    const auto taken = [&](int e) { return std::find(chosen.expert, chosen.expert + j, e) != chosen.expert + j; };
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      if (!taken(e) && (best < 0 || logits[e] > logits[best])) best = e;
    }
    chosen.expert[j] = best;
    p[j] = std::exp(logits[best] - max) / total;
    sum += p[j];
  }
  for (int j = 0; j < used; ++j) weights[j] = static_cast<float>(renormalise ? p[j] / sum : p[j]);
  return chosen;
}

}  // namespace

absl::Status RouteOnHost(Stream& stream, const RouteArgs& a) {
  if (a.experts > kMaxExperts || a.used > kMaxExpertsUsed || a.used > a.experts || a.used < 1) {
    return absl::InvalidArgumentError("route: so many experts are not served");
  }
  int32_t* const chosen = a.out.tokens;  // until the rows are known: the expert of each (token, place)
  ParallelFor(stream, a.tokens, [&](int t) {
    const int64_t at = int64_t{t} * a.used;
    const Choice c = Choose(a.logits + int64_t{t} * a.experts, a.experts, a.used, a.renormalise, a.out.weights + at);
    std::copy_n(c.expert, a.used, chosen + at);
  });
  const int rows = a.tokens * a.used;
  std::fill_n(a.out.first, a.experts + 1, 0);
  for (int i = 0; i < rows; ++i) ++a.out.first[chosen[i] + 1];
  for (int e = 0; e < a.experts; ++e) a.out.first[e + 1] += a.out.first[e];
  int32_t next[kMaxExperts];
  std::copy_n(a.out.first, a.experts, next);
  for (int i = 0; i < rows; ++i) a.out.sorted[i] = next[chosen[i]]++;
  for (int i = 0; i < rows; ++i) a.out.tokens[a.out.sorted[i]] = i / a.used;
  return absl::OkStatus();
}

absl::Status JoinExpertsOnHost(Stream& stream, const JoinExpertsArgs& a) {
  const float* const y = a.y.as<float>();
  ParallelFor(stream, a.tokens, [&](int t) {
    float* const out = a.out.as<float>() + int64_t{t} * a.dim;
    std::fill_n(out, a.dim, 0.0f);
    for (int j = 0; j < a.used; ++j) {
      const int64_t at = int64_t{t} * a.used + j;
      const float* const row = y + int64_t{a.sorted[at]} * a.dim;
      const float weight = a.weights[at];
      for (int i = 0; i < a.dim; ++i) out[i] += weight * row[i];
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops
