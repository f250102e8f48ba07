// How close two layouts must be: logits within a tolerance, texts equal up to a tie.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/cluster/harness/rank_set.h"

namespace shoal::testing {

// The tolerance between layouts and against outside references, f32 throughout.
inline constexpr float kLogitTolerance = 1e-3f;

// Largest |a[i] - b[i]|; infinity when sizes differ or a value is not finite.
float LargestDifference(const std::vector<float>& a, const std::vector<float>& b);

// The difference between the best and the second best of one row of logits.
float Margin(const float* logits, int vocab);

// -1 when the texts are equal, or when at their first difference the two best logits of `reference` (fed with the
// prompt and `expected`) are closer than `tolerance`; else the index of that difference.
absl::StatusOr<int> FirstRealDifference(RankSet& reference, const std::vector<int32_t>& prompt,
                                        const std::vector<int32_t>& expected, const std::vector<int32_t>& got,
                                        float tolerance);

}  // namespace shoal::testing
