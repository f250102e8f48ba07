#include "coordinator/core/scheduler.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/plan/plan_check.h"

namespace shoal::core {
namespace {

// A decision in the making: what is left of budget and blocks.
class Planner {
 public:
  explicit Planner(const SchedulerView& view)
      : v_(view),
        tokens_left_(view.max_tokens),
        blocks_left_(view.blocks_free),
        outputs_left_(view.max_sequences - static_cast<int32_t>(view.running.size())),
        last_(static_cast<int32_t>(view.running.size()) - 1),
        out_(view.running.size(), 0) {}

  Decision Run() {
    Decode();
    Prefill();
    if (decision_.preempt.empty()) Admit();
    return std::move(decision_);
  }

 private:
  bool Ready(const RunningView& s) const { return s.cohort == v_.cohort && s.unanswered < kMaxUnanswered; }

  void Decode() {
    for (int32_t i = 0; i < static_cast<int32_t>(v_.running.size()) && tokens_left_ > 0; ++i) {
      const RunningView& s = v_.running[i];
      if (out_[i] || !Ready(s) || s.computed < s.start_tokens || !s.wants_more) continue;
      const int32_t need = plan::BlocksFor(s.computed + 1, v_.block_size) - s.blocks;
      if (!MakeRoom(need, i)) continue;
      blocks_left_ -= need;
      --tokens_left_;
      decision_.rows.push_back({i, 1, need});
    }
  }

  // Blocks for sequence i, from those that arrived last. False: it is i itself that has to give way.
  bool MakeRoom(int32_t need, int32_t i) {
    while (blocks_left_ < need) {
      while (out_[last_]) --last_;  // i is not out, so this ends at i or behind it
      TakeOut(last_);
      decision_.preempt.push_back(last_);
      if (last_ != i) continue;
      SHOAL_CHECK(std::find(out_.begin(), out_.begin() + i, 0) != out_.begin() + i);  // not alone
      return false;
    }
    return true;
  }

  void TakeOut(int32_t i) {
    const RunningView& s = v_.running[i];
    out_[i] = 1;
    blocks_left_ += s.blocks - s.shared;
    if (s.shared == 0) return;
    for (size_t k = 0; k < v_.running.size(); ++k) {
      if (out_[k] == 0 && v_.running[k].prompt == s.prompt) return;
    }
    blocks_left_ += s.shared;
  }

  // Of the tokens [computed, end), as many as the next row has. One output of each sequence is not in outputs_left_.
  int32_t Chunk(int32_t computed, int32_t end, const Scored& scored) {
    int32_t count = std::min(tokens_left_, end - computed);
    if (computed < scored.from) {
      count = std::min(count, scored.from - computed);
    } else if (computed < scored.to) {
      count = std::min({count, scored.to - computed, outputs_left_ + 1});
      outputs_left_ -= count - 1;
    }
    tokens_left_ -= count;
    return count;
  }

  void Prefill() {
    for (int32_t i = 0; i < static_cast<int32_t>(v_.running.size()) && tokens_left_ > 0; ++i) {
      const RunningView& s = v_.running[i];
      if (out_[i] || !Ready(s) || s.computed >= s.start_tokens) continue;
      const int32_t count = Chunk(s.computed, s.start_tokens, s.scored);
      decision_.rows.push_back({i, count, 0});
    }
  }

  void Admit() {
    const int32_t running = static_cast<int32_t>(v_.running.size());
    const int32_t places = std::min(v_.waiting_total, v_.max_sequences - running);
    const auto mine = std::count_if(v_.running.begin(), v_.running.end(),
                                    [this](const RunningView& s) { return s.cohort == v_.cohort; });
    // Cohorts fill evenly: this one takes no more than its share of what runs and can start.
    const int32_t share = (running + places + v_.cohorts - 1) / v_.cohorts - static_cast<int32_t>(mine);
    int32_t admitted = 0;
    for (const WaitingView& w : v_.waiting) {
      if (admitted >= std::min(places, share) || tokens_left_ <= 0 || outputs_left_ <= 0 || !w.settled) break;
      // Half a block for each that runs stays free: a sequence that starts only to be preempted at once is work for
      // nothing.
      const int32_t reserve = (running + admitted) / 2;
      if (plan::BlocksFor(w.tokens + 1, v_.block_size) - w.shared + reserve > blocks_left_) break;
      const int32_t blocks = plan::BlocksFor(w.tokens, v_.block_size) - w.shared;
      --outputs_left_;
      const int32_t count = Chunk(w.computed, w.tokens, w.scored);
      blocks_left_ -= blocks;
      ++admitted;
      decision_.admit.push_back({count, blocks});
    }
  }

  const SchedulerView& v_;
  int32_t tokens_left_, blocks_left_;
  int32_t outputs_left_;      // beside one for each that runs
  int32_t last_;              // no sequence behind it is left to preempt
  std::vector<uint8_t> out_;  // [running] preempted or ended by this decision
  Decision decision_;
};

}  // namespace

Decision Decide(const SchedulerView& view) { return Planner(view).Run(); }

CohortMove Balance(const SchedulerView& view) {
  if (view.cohorts < 2) return {};
  std::vector<int32_t> counts(view.cohorts, 0);
  for (const RunningView& s : view.running) ++counts[s.cohort];
  const auto most = std::max_element(counts.begin(), counts.end());
  const auto least = std::min_element(counts.begin(), counts.end());
  if (*most - *least < 2) return {};
  const int32_t from = static_cast<int32_t>(most - counts.begin());
  CohortMove move{-1, static_cast<int32_t>(least - counts.begin())};
  for (int32_t i = 0; i < static_cast<int32_t>(view.running.size()); ++i) {
    const RunningView& s = view.running[i];
    if (s.cohort != from) continue;
    // The one with the fewest unanswered plans can go on soonest; of those, the one that arrived last.
    if (move.index < 0 || s.unanswered <= view.running[move.index].unanswered) move.index = i;
  }
  return move;
}

}  // namespace shoal::core
