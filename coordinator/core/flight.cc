#include "coordinator/core/flight.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace shoal::core {

void Flight::Sent(const plan::StepPlan& plan, const plan::PlanMirror& mirror) {
  SHOAL_CHECK(plan.stamp.step == last_sent_ + 1);
  last_sent_ = plan.stamp.step;
  if (recent_.size() == kRecent) recent_.pop_front();
  recent_.push_back({plan.stamp.step, static_cast<int32_t>(plan.rows.size()), plan.TokenCount()});
  Plan& kept = plans_.emplace_back();
  kept.step = plan.stamp.step;
  kept.rows.reserve(plan.rows.size());
  for (const plan::Row& row : plan.rows) {
    const bool sample = plan::Samples(row.output);
    const plan::MirroredSequence* s = mirror.Find(row.id);
    const bool logprobs = sample && s != nullptr && s->sampling.logprobs >= 0;
    const int32_t scored = plan::TellsLogprobs(row.output) ? row.count - (sample ? 1 : 0) : 0;
    kept.rows.push_back({row.id, sample, logprobs, scored, row.position + row.count});
  }
}

Flight::Verdict Flight::Answer(const plan::StepResult& result, int32_t vocab, std::vector<Row>* rows,
                               std::string* why) {
  const uint64_t step = result.stamp.step;
  uint64_t& last = answered_[result.rank];
  if (step <= last) return Verdict::kStale;
  if (step != last + 1 || step > last_sent_) {
    *why = absl::StrCat("rank ", result.rank, " answered step ", step, " after step ", last, ", ", last_sent_,
                        " were sent");
    return Verdict::kBroken;
  }
  if (!result.error.empty()) {
    *why = absl::StrCat("rank ", result.rank, ", step ", step, ": ", result.error);
    return Verdict::kBroken;
  }
  if (result.rank != sampling_rank_) {
    last = step;
    return Verdict::kNoted;
  }
  Plan& plan = plans_.front();
  SHOAL_CHECK(plan.step == step);
  *why = Mismatch(plan, result, vocab);
  if (!why->empty()) return Verdict::kBroken;
  last = step;
  *rows = std::move(plan.rows);
  plans_.pop_front();
  return Verdict::kTokens;
}

std::string Flight::RowMismatch(const Row& row, const plan::RowResult& result, int32_t vocab) {
  if (result.error != plan::RowError::kNone) return {};
  const auto valid = [vocab](int32_t token) { return token >= 0 && token < vocab; };
  if (result.tokens.size() != (row.sample ? 1 : 0)) return "no valid token";
  if (row.sample && !valid(result.tokens[0])) return "no valid token";
  if (result.logprobs.size() != static_cast<size_t>(row.scored) + (row.logprobs ? 1 : 0)) {
    return "other log-probabilities than were asked for";
  }
  if (row.logprobs && result.logprobs.back().token != result.tokens[0]) return "the log-probability of another token";
  for (const plan::TokenLogprobs& of : result.logprobs) {
    if (!valid(of.token) || of.top_ids.size() != of.top_logprobs.size() ||
        !std::all_of(of.top_ids.begin(), of.top_ids.end(), valid)) {
      return "log-probabilities of no valid token";
    }
  }
  return {};
}

std::string Flight::Mismatch(const Plan& plan, const plan::StepResult& result, int32_t vocab) const {
  size_t next = 0;
  for (const Row& row : plan.rows) {
    if (!row.sample && row.scored == 0) continue;
    if (next == result.rows.size() || result.rows[next].id != row.id) {
      return absl::StrCat("the answer to step ", plan.step, " lacks sequence ", row.id);
    }
    const std::string wrong = RowMismatch(row, result.rows[next++], vocab);
    if (!wrong.empty()) return absl::StrCat("the answer to step ", plan.step, " has ", wrong, " for sequence ", row.id);
  }
  if (next != result.rows.size()) return absl::StrCat("the answer to step ", plan.step, " has rows nobody asked for");
  return {};
}

int32_t Flight::Count(plan::SequenceId id) const {
  int32_t count = 0;
  for (const Plan& plan : plans_) {
    for (const Row& row : plan.rows) count += row.id == id ? 1 : 0;
  }
  return count;
}

}  // namespace shoal::core
