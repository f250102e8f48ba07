#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ops/token_counts.h"
#include "kernels/ref/ref.h"

// Weights here are w = exp((logit - max) / temperature): p times a constant that every comparison carries on both
// sides, so nothing is divided.
namespace shoal::ops::ref {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t SampleOne(const float* logits, int vocab, const SampleRow& p) {
  int32_t best = -1;
  for (int i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i])) return -1;
    if (best < 0 || logits[i] > logits[best]) best = i;
  }
  if (best < 0 || std::isinf(logits[best])) return -1;
  if (p.temperature <= 0) return best;

  const double max = logits[best], temperature = p.temperature;
  std::vector<double> w(static_cast<size_t>(vocab));
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  double total = 0;
  for (int i = 0; i < vocab; ++i) {
    w[static_cast<size_t>(i)] = std::exp((static_cast<double>(logits[i]) - max) / temperature);
    total += w[static_cast<size_t>(i)];
    order[static_cast<size_t>(i)] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const auto weight = [&](size_t rank) { return w[static_cast<size_t>(order[rank])]; };

  size_t kept = static_cast<size_t>(vocab);
  if (p.top_k > 0 && p.top_k < vocab) {
    kept = static_cast<size_t>(p.top_k);
    total = 0;
    for (size_t i = 0; i < kept; ++i) total += weight(i);
  }
  if (p.top_p < 1) {
    double sum = 0;
    size_t i = 0;
    while (i < kept && (i == 0 || sum < static_cast<double>(p.top_p) * total)) sum += weight(i++);
    kept = i;
    total = sum;
  }
  if (p.min_p > 0) {
    double sum = 0;
    size_t i = 0;
    while (i < kept && !(weight(i) < p.min_p)) sum += weight(i++);
    kept = std::max<size_t>(i, 1);
    total = i == 0 ? weight(0) : sum;
  }
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    sum += weight(i);
    if (sum > static_cast<double>(p.uniform) * total) return order[i];
  }
  return order[kept - 1];
}

bool Allowed(const SampleArgs& a, const SampleRow& p, int id) {
  if (a.masks == nullptr || p.mask < 0) return true;
  return (a.masks[p.mask * MaskWords(a.vocab) + id / 32] >> (id % 32) & 1) != 0;
}

float Biased(const SampleArgs& a, const SampleRow& p, int id, float logit) {
  for (int i = p.bias_first; a.biases != nullptr && i < p.bias_first + p.bias_count; ++i) {
    if (a.biases[i].id == id) logit += a.biases[i].bias;
  }
  return logit;
}

float Penalised(float logit, uint16_t count, const SampleRow& p) {
  if (count == 0) return logit;
  logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
  const int generated = count & kMostGenerated;
  if (generated == 0) return logit;
  logit -= p.frequency * static_cast<float>(generated);
  return logit - p.presence;
}

// The logits that a row's token is chosen by.
std::vector<float> Changed(const SampleArgs& a, int row) {
  const SampleRow& p = a.params[row];
  const bool counted = a.counts != nullptr && p.place >= 0;
  std::vector<float> logits(a.logits + row * a.stride, a.logits + row * a.stride + a.vocab);
  for (int id = 0; id < a.vocab; ++id) {
    float& logit = logits[static_cast<size_t>(id)];
    if (!Allowed(a, p, id) && logit < kInfinity) logit = -kInfinity;
    logit = Biased(a, p, id, logit);
    if (counted) logit = Penalised(logit, a.counts[p.place * CountsStride(a.vocab) + id], p);
  }
  return logits;
}

SampleLogprobs Logprobs(const float* logits, int vocab, int32_t token, int top) {
  SampleLogprobs out = {.logprob = -kInfinity, .rank = 0, .top_ids = {}, .top_logprobs = {}};
  std::fill_n(out.top_ids, kMaxTopLogprobs, -1);
  std::fill_n(out.top_logprobs, kMaxTopLogprobs, -kInfinity);
  if (token < 0 || SampleOne(logits, vocab, {}) < 0) return out;
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double max = logits[order[0]];
  double sum = 0;
  for (int i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - max);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[id]) - max - std::log(sum));
  };
  out.logprob = logprob(token);
  out.rank = static_cast<int32_t>(std::find(order.begin(), order.end(), token) - order.begin()) + 1;
  for (int i = 0; i < std::min({top, kMaxTopLogprobs, vocab}) && logits[order[static_cast<size_t>(i)]] > -kInfinity;
       ++i) {
    out.top_ids[i] = order[static_cast<size_t>(i)];
    out.top_logprobs[i] = logprob(out.top_ids[i]);
  }
  return out;
}

}  // namespace

absl::Status Sample(Stream& stream, const SampleArgs& a) {
  ParallelFor(stream, a.rows, [&](int r) {
    const SampleRow& p = a.params[r];
    a.tokens[r] = p.top_k < 0 ? -1 : p.forced >= 0 ? p.forced : SampleOne(Changed(a, r).data(), a.vocab, p);
    if (p.logprobs < 0 || a.logprobs == nullptr) return;
    a.logprobs[r] = Logprobs(a.logits + r * a.stride, a.vocab, a.tokens[r], p.logprobs);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
