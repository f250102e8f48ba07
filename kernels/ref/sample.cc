#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

// Weights here are w = exp((logit - max) / temperature): p times a constant that every comparison carries on both
// sides, so nothing is divided.
namespace shoal::ops::ref {
namespace {

int32_t SampleOne(const float* logits, int vocab, const SampleRow& p) {
  if (p.top_k < 0) return -1;
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

}  // namespace

absl::Status Sample(Stream& stream, const SampleArgs& a) {
  ParallelFor(stream, a.rows, [&](int r) { a.tokens[r] = SampleOne(a.logits + r * a.stride, a.vocab, a.params[r]); });
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
