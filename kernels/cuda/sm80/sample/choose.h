// A row's token: of a greedy row the largest logit, by one pass. Else a second one sums the weights of stretches of the
// order, and each limit (top_k, top_p, the draw) asks for one place in it (search.h). All threads of a block call.
#pragma once

#include "kernels/cuda/sm80/sample/logprobs.h"
#include "kernels/cuda/sm80/sample/search.h"

namespace shoal::cuda::sample {

// Where a limit falls, given the sum of what those before it keep.
enum Limit : int { kTopK, kTopP, kDraw, kLimits };
__device__ inline bool Limits(const SampleShared& s, int limit, const ops::SampleRow& p, int vocab, uint64_t kept,
                              Place* place) {
  const double sum = static_cast<double>(kept);
  if (limit == kTopK) {
    *place = {true, static_cast<uint64_t>(p.top_k) - 1};
    // What lies in the last bin has no weight and need not be cut off, and its members are many.
    return p.top_k > 0 && p.top_k < vocab && static_cast<uint32_t>(p.top_k) <= s.by_gap.count[kBins - 1];
  }
  if (limit == kTopP) {
    const double reach = ceil(static_cast<double>(p.top_p) * sum);
    *place = {false, reach > 1 ? min(static_cast<uint64_t>(reach), kept) - 1 : 0};
    return p.top_p < 1;
  }
  const double drawn = static_cast<double>(p.uniform) * sum;
  *place = {false, drawn > 0 ? min(static_cast<uint64_t>(drawn), kept - 1) : 0};
  return true;
}

// Each limit keeps a prefix of the order: its sum says which.
template <typename L>
__device__ int32_t Draw(SampleShared& s, const Row<L>& row, float largest, int32_t best, const ops::SampleRow& p) {
  const Cut cut = CutByGap(largest, p.temperature);
  const bool counts = p.top_k > 0 && p.top_k < row.logits.vocab;
  const double least = p.min_p > 0 ? fmin(static_cast<double>(p.min_p), 2.0) * (int64_t{1} << kOneLog2) : 0;
  const uint64_t heavy = FillBins(s, row, cut, counts, static_cast<uint64_t>(least + 0.5), s.by_gap);
  uint64_t kept = s.by_gap.weight[kBins];
  SHOAL_KEEP_LOOP for (int limit = 0; limit < kLimits; ++limit) {
    if (limit == kDraw) kept = min(kept, heavy);
    if (kept == 0) return best;  // min_p above 1, or a temperature that is no number
    Place place;
    if (!Limits(s, limit, p, row.logits.vocab, kept, &place)) continue;
    Find(s, row, cut, place);
    kept = s.found_weight;
  }
  return s.found_id;
}

template <typename L>
__device__ int32_t Choose(SampleShared& s, const L& logits, const ops::SampleRow& p) {
  const uint64_t best = Largest(s, logits);
  const auto key = static_cast<uint32_t>(best >> 32);
  if (key >= kKeyOfInfinity || key <= kKeyOfMinusInfinity) return -1;
  const auto id = static_cast<int32_t>(~static_cast<uint32_t>(best));
  if (p.temperature <= 0) return id;
  const float largest = OfKey(key);
  const Row<L> row = {logits, static_cast<double>(largest), 1.0 / static_cast<double>(p.temperature)};
  return Draw(s, row, largest, id, p);
}

// Whether a mask, biases or penalties change row r: then ChangedRow samples it, else PlainRow.
SHOAL_HD inline bool IsChanged(const ops::SampleArgs& op, const ops::SampleRow& params) {
  return (op.masks != nullptr && params.mask >= 0) || (op.biases != nullptr && params.bias_count > 0) ||
         (op.counts != nullptr && IsPenalised(params));
}

// Of that row, by its logits as they are to be read.
template <typename L>
__device__ void SampleRowBy(const ops::SampleArgs& op, int64_t r, const ops::SampleRow& params, const L& logits) {
  SampleShared& s = Shared<SampleShared>();
  const int32_t token = params.top_k < 0 ? -1 : params.forced >= 0 ? params.forced : Choose(s, logits, params);
  if (Thread() == 0) op.tokens[r] = token;
  if (params.logprobs < 0 || op.logprobs == nullptr) return;
  WriteLogprobs(s, {op.logits + r * op.stride, op.vocab}, token, params.logprobs, &op.logprobs[r]);
}

// A power of two, so that the bins are shared out evenly; eight logits each fill it.
template <int kMost>
LaunchShape ShapeOf(const ops::SampleArgs& op) {
  int threads = kMinThreads;
  while (threads < kMost && 8 * threads < op.vocab) threads *= 2;
  return {dim3{static_cast<unsigned>(op.rows)}, dim3{static_cast<unsigned>(threads)}, sizeof(SampleShared)};
}

// The rows that are changed. Called by Enqueue of sample.h, whose conditions hold.
absl::Status EnqueueChanged(DeviceStream stream, const ops::SampleArgs& op);

}  // namespace shoal::cuda::sample
