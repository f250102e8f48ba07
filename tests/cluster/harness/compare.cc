#include "tests/cluster/harness/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/status_macros.h"

namespace shoal::testing {

float LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<float>::infinity();
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::fabs(a[i] - b[i]);
    if (!std::isfinite(d)) return std::numeric_limits<float>::infinity();
    largest = std::max(largest, d);
  }
  return largest;
}

float Margin(const float* logits, int vocab) {
  float best = -std::numeric_limits<float>::infinity(), second = best;
  for (int i = 0; i < vocab; ++i) {
    if (logits[i] > best) {
      second = best;
      best = logits[i];
    } else {
      second = std::max(second, logits[i]);
    }
  }
  return best - second;
}

absl::StatusOr<int> FirstRealDifference(RankSet& reference, const std::vector<int32_t>& prompt,
                                        const std::vector<int32_t>& expected, const std::vector<int32_t>& got,
                                        float tolerance) {
  const auto [a, b] = std::mismatch(expected.begin(), expected.end(), got.begin(), got.end());
  if (a == expected.end() && b == got.end()) return -1;
  const int at = static_cast<int>(a - expected.begin());
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), expected.begin(), a);
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> logits,
                         TeacherForced(reference, ids, {reference.options().max_tokens}));
  const int vocab = reference.shards().model.config.vocab;
  return Margin(logits.data() + logits.size() - vocab, vocab) < tolerance ? -1 : at;
}

}  // namespace shoal::testing
