// A row's log-probabilities, from its logits as they came. A pass for the largest logit, one for the sum of all weights
// (of e^logit: integers, so no order matters), one or more to find the last of the top ids (search.h), one that ranks
// the token and collects the top ids, which then each count those before them. Without top ids: two passes.
// The sum is off by 2^-21 at most (2^19 weights all rounded one way, by half a unit of 2^-39), a log-probability by
// 5e-7 and its rounding to f32.
#pragma once

#include "kernels/cuda/sm80/sample/search.h"

namespace shoal::cuda::sample {

__device__ inline void WriteLogprobs(SampleShared& s, const Plain& logits, int32_t token, int top,
                                     ops::SampleLogprobs* out) {
  if (Thread() == 0) {
    out->logprob = -kInfinity;
    out->rank = 0;
  }
  if (Thread() < ops::kMaxTopLogprobs) {
    out->top_ids[Thread()] = -1;
    out->top_logprobs[Thread()] = -kInfinity;
  }
  if (token < 0) return;

  const auto key = static_cast<uint32_t>(Largest(s, logits) >> 32);
  if (key >= kKeyOfInfinity || key <= kKeyOfMinusInfinity) return;  // the token was forced
  const float largest = OfKey(key);
  const Row<Plain> row = {logits, static_cast<double>(largest), 1.0};
  const bool lists = top > 0;
  uint64_t total = 0, last = 0;
  if (lists) {
    const Cut cut = CutByGap(largest, 1);
    total = FillBins(s, row, cut, true, 0, s.by_gap);
    const uint32_t listed = min(static_cast<uint32_t>(min(top, ops::kMaxTopLogprobs)), s.by_gap.count[kBins]);
    Find(s, row, cut, {true, listed - 1});
    last = OrderOf(logits.At(s.found_id), s.found_id);
  }
  if (Thread() == 0) s.members = 0;
  __syncthreads();
  const uint64_t chosen = OrderOf(logits.At(token), token);
  uint64_t rank = 0, weight = 0;
  ForEach(logits, [&](int id, float logit) {
    const uint64_t order = OrderOf(logit, id);
    rank += order <= chosen ? 1 : 0;
    if (!lists) weight += row.Weight(logit);
    if (lists && order <= last) s.candidates[atomicAdd(&s.members, 1u)].order = order;
  });
  rank = Reduce(s, rank, Sum());
  if (!lists) total = Reduce(s, weight, Sum());

  const double log_sum = row.largest + log(static_cast<double>(total) / static_cast<double>(uint64_t{1} << kOneLog2));
  if (Thread() == 0) {
    out->logprob = static_cast<float>(static_cast<double>(logits.At(token)) - log_sum);
    out->rank = static_cast<int32_t>(rank);
  }
  const int members = lists ? static_cast<int>(s.members) : 0;
  if (Thread() >= members) return;
  const uint64_t own = s.candidates[Thread()].order;
  int before = 0;
  for (int i = 0; i < members; ++i) before += s.candidates[i].order < own ? 1 : 0;
  out->top_ids[before] = static_cast<int32_t>(own);
  out->top_logprobs[before] =
      static_cast<float>(static_cast<double>(OfKey(~static_cast<uint32_t>(own >> 32))) - log_sum);
}

}  // namespace shoal::cuda::sample
