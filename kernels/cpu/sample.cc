#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kernels/cpu/cpu.h"

// The reference's algorithm (kernels/ref/sample.cc) without the full sort: the candidates are ordered from the top, a
// stretch at a time, only as far as the choice looks. Exponentials and the total over the vocabulary may differ from
// the reference's in the last bits of a double, so the token can differ only where the draw falls within about 1e-14 of
// a border.
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

// Weights exp((logit - max) / temperature) by falling order, computed as far as asked. A histogram of the distance to
// the largest logit finds the next stretch of candidates, which are then sorted among themselves.
class Ranking {
 public:
  Ranking(const KernelSet& set, const float* logits, int vocab, float max, double temperature)
      : set_(set), logits_(logits), vocab_(vocab), max_(max), temperature_(temperature) {}

  double Weight(size_t rank) {
    while (weights_.size() <= rank) Extend();
    return weights_[rank];
  }
  int32_t Id(size_t rank) {
    while (weights_.size() <= rank) Extend();
    return sorted_[rank].id;
  }
  double TotalWeight() const { return set_.total_weight(logits_, vocab_, max_, temperature_); }

 private:
  static constexpr int kBuckets = 2048;
  static constexpr float kPerUnit = 64;  // the last bucket takes all beyond 32 below the largest

  int BucketOf(float logit) const {
    return static_cast<int>(std::min((max_ - logit) * kPerUnit, static_cast<float>(kBuckets - 1)));
  }

  void Extend() {
    if (counts_.empty()) {
      counts_.resize(kBuckets);
      for (int i = 0; i < vocab_; ++i) ++counts_[static_cast<size_t>(BucketOf(logits_[i]))];
    }
    const size_t known = weights_.size(), wanted = std::max<size_t>(64, known * 4);
    const int begin = next_bucket_;
    size_t count = known;
    while (next_bucket_ < kBuckets && count < wanted) count += counts_[static_cast<size_t>(next_bucket_++)];
    // Written without a branch: about as many are taken as not, in no order that could be foreseen.
    sorted_.resize(count + 1);
    size_t at = known;
    for (int i = 0; i < vocab_; ++i) {
      const int bucket = BucketOf(logits_[i]);
      sorted_[at] = {logits_[i], i};
      at += static_cast<size_t>(bucket >= begin && bucket < next_bucket_);
    }
    sorted_.resize(count);
    std::sort(sorted_.begin() + static_cast<std::ptrdiff_t>(known), sorted_.end(), Before);
    weights_.resize(sorted_.size());
    std::vector<float> stretch;
    for (size_t i = known; i < sorted_.size(); ++i) stretch.push_back(sorted_[i].logit);
    set_.weights(stretch.data(), static_cast<int64_t>(stretch.size()), max_, temperature_, weights_.data() + known);
  }

  const KernelSet& set_;
  const float* const logits_;
  const int vocab_;
  const float max_;
  const double temperature_;
  std::vector<uint32_t> counts_;
  int next_bucket_ = 0;
  std::vector<Candidate> sorted_;
  std::vector<double> weights_;  // of sorted_
};

int32_t SampleOne(const KernelSet& set, const float* logits, int vocab, const SampleRow& p) {
  if (p.top_k < 0) return -1;
  const int32_t best = ArgMax(logits, vocab);
  if (best < 0 || std::isinf(logits[best])) return -1;
  if (p.temperature <= 0) return best;

  Ranking ranking(set, logits, vocab, logits[best], p.temperature);
  size_t kept = static_cast<size_t>(vocab);
  double total = 0;
  if (p.top_k > 0 && p.top_k < vocab) {
    kept = static_cast<size_t>(p.top_k);
    for (size_t i = 0; i < kept; ++i) total += ranking.Weight(i);
  } else {
    total = ranking.TotalWeight();
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

absl::Status Sample(const KernelSet& set, Stream& stream, const SampleArgs& a) {
  ParallelFor(stream, a.rows,
              [&](int r) { a.tokens[r] = SampleOne(set, a.logits + r * a.stride, a.vocab, a.params[r]); });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
