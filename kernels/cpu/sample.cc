#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu.h"

// The reference's algorithm and orders of summation (kernels/ref/sample.cc), without the full sort: the candidates are
// ordered from the top, a stretch at a time, only as far as the choice looks.
namespace shoal::ops::cpu {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};
bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// The largest logit, the lowest id among equals; -1 when there is a NaN.
int32_t ArgMax(const float* logits, int vocab) {
  constexpr int kLanes = 16;
  float max[kLanes];
  std::fill(max, max + kLanes, -INFINITY);
  bool nan = false;
  int i = 0;
  for (; i + kLanes <= vocab; i += kLanes) {
    int bad = 0;
    for (int j = 0; j < kLanes; ++j) {
      const float x = logits[i + j];
      max[j] = x > max[j] ? x : max[j];
      bad |= static_cast<int>(x != x);
    }
    nan |= bad != 0;
  }
  for (; i < vocab; ++i) {
    max[0] = std::max(max[0], logits[i]);
    nan |= std::isnan(logits[i]);
  }
  if (nan || vocab == 0) return -1;
  return static_cast<int32_t>(std::find(logits, logits + vocab, *std::max_element(max, max + kLanes)) - logits);
}

// Weights by falling order, computed as far as asked.
class Ranking {
 public:
  Ranking(const float* logits, int vocab, double max, double temperature) : max_(max), temperature_(temperature) {
    all_.resize(static_cast<size_t>(vocab));
    for (int i = 0; i < vocab; ++i) all_[static_cast<size_t>(i)] = {logits[i], i};
  }
  double WeightOf(float logit) const { return std::exp((static_cast<double>(logit) - max_) / temperature_); }
  double Weight(size_t rank) {
    while (weights_.size() <= rank) Extend();
    return weights_[rank];
  }
  int32_t Id(size_t rank) {
    while (weights_.size() <= rank) Extend();
    return all_[rank].id;
  }

 private:
  void Extend() {
    const size_t begin = weights_.size(), end = std::min(all_.size(), begin + std::max<size_t>(64, begin * 3));
    const auto first = all_.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = all_.begin() + static_cast<std::ptrdiff_t>(end);
    if (last != all_.end()) std::nth_element(first, last, all_.end(), Before);
    std::sort(first, last, Before);
    for (auto c = first; c != last; ++c) weights_.push_back(WeightOf(c->logit));
  }

  const double max_, temperature_;
  std::vector<Candidate> all_;  // sorted up to weights_.size()
  std::vector<double> weights_;
};

int32_t SampleOne(const float* logits, int vocab, const SampleRow& p) {
  const int32_t best = ArgMax(logits, vocab);
  if (best < 0 || logits[best] == -INFINITY) return -1;
  if (p.temperature <= 0 || logits[best] == INFINITY) return best;

  Ranking ranking(logits, vocab, logits[best], p.temperature);
  size_t kept = static_cast<size_t>(vocab);
  double total = 0;
  if (p.top_k > 0 && p.top_k < vocab) {
    kept = static_cast<size_t>(p.top_k);
    for (size_t i = 0; i < kept; ++i) total += ranking.Weight(i);
  } else {
    for (int i = 0; i < vocab; ++i) total += ranking.WeightOf(logits[i]);
  }
  if (p.top_p < 1) {
    double sum = 0;
    size_t i = 0;
    while (i < kept && (i == 0 || sum < static_cast<double>(p.top_p) * total)) sum += ranking.Weight(i++);
    kept = i;
    total = sum;
  }
  if (p.min_p > 0) {
    double sum = 0;
    size_t i = 0;
    while (i < kept && !(ranking.Weight(i) < p.min_p)) sum += ranking.Weight(i++);
    kept = std::max<size_t>(i, 1);
    total = i == 0 ? ranking.Weight(0) : sum;
  }
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    sum += ranking.Weight(i);
    if (sum > static_cast<double>(p.uniform) * total) return ranking.Id(i);
  }
  return ranking.Id(kept - 1);
}

}  // namespace

absl::Status Sample(Stream& stream, const SampleArgs& a) {
  ParallelFor(stream, a.rows, [&](int r) { a.tokens[r] = SampleOne(a.logits + r * a.stride, a.vocab, a.params[r]); });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
