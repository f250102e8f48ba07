// Tested by: tests/rank/row_results_test.cc
#include "worker/rank/row_results.h"

#include <algorithm>

namespace shoal::rank {
namespace {

plan::TokenLogprobs LogprobsOf(const ops::SampleLogprobs& from, int32_t token, int32_t most) {
  plan::TokenLogprobs out;
  out.token = token;
  out.logprob = from.logprob;
  out.rank = from.rank;
  for (int32_t i = 0; i < most && from.top_ids[i] >= 0; ++i) {
    out.top_ids.push_back(from.top_ids[i]);
    out.top_logprobs.push_back(from.top_logprobs[i]);
  }
  return out;
}

plan::RowResult ResultOf(const EnqueuedStep& step, const OutputRow& row) {
  plan::RowResult out;
  out.id = row.id;
  const auto add = [&](int32_t output, int32_t token) {
    const int32_t top = step.tops.empty() ? -1 : step.tops[output];
    if (top < 0) return token >= 0;
    const ops::SampleLogprobs& from = step.logprobs[output - step.logprobs_first];
    out.logprobs.push_back(LogprobsOf(from, token, std::min(top, ops::kMaxTopLogprobs)));
    return token >= 0 && from.rank > 0;
  };
  bool good = true;
  const auto samples = static_cast<int32_t>(step.tokens.size());
  for (int32_t i = row.known_first; i < row.known_first + row.known; ++i) good &= add(i, step.known[i - samples]);
  if (row.sample >= 0) {
    out.tokens = {step.tokens[row.sample]};
    good &= add(row.sample, out.tokens[0]);
  }
  if (!good) return {row.id, {}, plan::RowError::kNotFinite};
  return out;
}

}  // namespace

std::vector<plan::RowResult> RowResultsOf(const EnqueuedStep& step) {
  std::vector<plan::RowResult> out;
  for (const OutputRow& row : step.rows) out.push_back(ResultOf(step, row));
  return out;
}

}  // namespace shoal::rank
