#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/ops/token_counts.h"

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

void Bias(const SampleBias* biases, int count, float* logits) {
  for (int i = 0; i < count; ++i) logits[biases[i].id] += biases[i].bias;
}

// Most words allow all their ids or none of them.
void Forbid(const uint32_t* mask, int vocab, float* logits) {
  for (int begin = 0; begin < vocab; begin += 32) {
    const uint32_t word = mask[begin / 32];
    if (word == ~uint32_t{0}) continue;
    for (int i = 0; i < 32 && begin + i < vocab; ++i) {
      float& logit = logits[begin + i];
      const bool forbidden = (word >> i & 1) == 0 && logit < INFINITY;
      logit = forbidden ? -INFINITY : logit;
    }
  }
}

void Penalise(const uint16_t* counts, int vocab, const SampleRow& p, float* logits) {
  constexpr int kAtOnce = 4;  // a row of counts has room for whole eights; nearly all of them are 0
  for (int begin = 0; begin < vocab; begin += kAtOnce) {
    uint64_t any;
    std::memcpy(&any, counts + begin, sizeof any);
    if (any == 0) continue;
    for (int i = begin; i < std::min(begin + kAtOnce, vocab); ++i) {
      if (counts[i] == 0) continue;
      float logit = logits[i] > 0 ? logits[i] / p.repetition : logits[i] * p.repetition;
      if (const int generated = counts[i] & kMostGenerated; generated != 0) {
        logit = logit - p.frequency * static_cast<float>(generated) - p.presence;
      }
      logits[i] = logit;
    }
  }
}

SampleLogprobs Logprobs(const KernelSet& set, const float* logits, int vocab, int32_t token, int top) {
  SampleLogprobs out = {.logprob = -INFINITY, .rank = 0, .top_ids = {}, .top_logprobs = {}};
  std::fill_n(out.top_ids, kMaxTopLogprobs, -1);
  std::fill_n(out.top_logprobs, kMaxTopLogprobs, -INFINITY);
  const int32_t largest = token < 0 ? -1 : ArgMax(logits, vocab);
  if (largest < 0 || std::isinf(logits[largest])) return out;
  const Candidate chosen = {logits[token], token};
  std::vector<Candidate> best;  // by order, at most `most`
  const auto most = static_cast<size_t>(std::min(top, kMaxTopLogprobs));
  float last = most == 0 ? INFINITY : -INFINITY;  // what a logit has to exceed to be among them
  for (int i = 0; i < vocab; ++i) {
    const Candidate c = {logits[i], i};
    out.rank += static_cast<int>(!Before(chosen, c));
    if (!(c.logit > last)) continue;
    if (best.size() == most) best.pop_back();
    best.insert(std::upper_bound(best.begin(), best.end(), c, Before), c);
    if (best.size() == most) last = best.back().logit;
  }
  const double max = logits[largest], log_sum = std::log(set.total_weight(logits, vocab, max, 1));
  const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - max - log_sum); };
  out.logprob = logprob(chosen.logit);
  for (size_t i = 0; i < best.size(); ++i) {
    out.top_ids[i] = best[i].id;
    out.top_logprobs[i] = logprob(best[i].logit);
  }
  return out;
}

void SampleRowOf(const KernelSet& set, const SampleArgs& a, int r) {
  const SampleRow& p = a.params[r];
  const float* const logits = a.logits + r * a.stride;
  const bool penalised = a.counts != nullptr && IsPenalised(p), masked = a.masks != nullptr && p.mask >= 0;
  const bool biased = a.biases != nullptr && p.bias_count > 0;
  if (p.top_k < 0) {
    a.tokens[r] = -1;
  } else if (p.forced >= 0) {
    a.tokens[r] = p.forced;
  } else if (penalised || masked || biased) {
    std::vector<float> changed(logits, logits + a.vocab);
    if (masked) Forbid(a.masks + p.mask * MaskWords(a.vocab), a.vocab, changed.data());
    if (biased) Bias(a.biases + p.bias_first, p.bias_count, changed.data());
    if (penalised) Penalise(a.counts + p.place * CountsStride(a.vocab), a.vocab, p, changed.data());
    a.tokens[r] = SampleOne(set, changed.data(), a.vocab, p);
  } else {
    a.tokens[r] = SampleOne(set, logits, a.vocab, p);
  }
  if (p.logprobs >= 0 && a.logprobs != nullptr) {
    a.logprobs[r] = Logprobs(set, logits, a.vocab, a.tokens[r], p.logprobs);
  }
}

}  // namespace

absl::Status Sample(const KernelSet& set, Stream& stream, const SampleArgs& a) {
  ParallelFor(stream, a.rows, [&](int r) { SampleRowOf(set, a, r); });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
