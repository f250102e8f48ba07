// Tested by: tests/core/stragglers_test.cc
#include "coordinator/core/stragglers.h"

#include <algorithm>

#include "common/base/check.h"

namespace shoal::core {

Stragglers::Stragglers(int32_t tp, int32_t pp) { Reset(tp, pp); }

void Stragglers::Reset(int32_t tp, int32_t pp) {
  tp_ = tp;
  ranks_.assign(static_cast<size_t>(tp) * pp, {});
  open_.assign(static_cast<size_t>(pp) * kOpenSteps, {});
  for (Step& step : open_) step.own.resize(tp);
}

std::vector<Stragglers::Change> Stragglers::Note(int32_t rank, uint64_t step, DurationNs own) {
  SHOAL_CHECK(Has(rank));
  Rank& r = ranks_[rank];
  if (step <= r.last) return {};
  r.last = step;
  own = std::max<DurationNs>(own, 0);
  r.mean = r.mean == 0 ? own : r.mean + (own - r.mean) / 16;
  if (tp_ == 1) return {};
  const int32_t stage = rank / tp_;
  Step& open = open_[stage * kOpenSteps + step % kOpenSteps];
  if (open.step != step) {
    open.step = step;
    open.answers = 0;
  }
  open.own[rank % tp_] = own;
  return ++open.answers == tp_ ? Compare(stage, open) : std::vector<Change>();
}

std::vector<Stragglers::Change> Stragglers::Compare(int32_t stage, const Step& step) {
  std::vector<Change> changes;
  for (int32_t t = 0; t < tp_; ++t) {
    peers_ = step.own;
    peers_.erase(peers_.begin() + t);
    const auto middle = peers_.begin() + (peers_.size() - 1) / 2;
    std::nth_element(peers_.begin(), middle, peers_.end());
    const DurationNs own = step.own[t];
    const bool slow = own / kTimes > *middle && own - *middle >= kLeast;
    Rank& rank = ranks_[stage * tp_ + t];
    rank.in_a_row = slow == rank.straggles ? 0 : rank.in_a_row + 1;
    if (rank.in_a_row < (slow ? kSteps : kRecovered)) continue;
    rank.in_a_row = 0;
    rank.straggles = slow;
    changes.push_back({stage * tp_ + t, slow, own, *middle});
  }
  return changes;
}

}  // namespace shoal::core
