#include "worker/rank/token_feed.h"

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::rank {

absl::Status TokenFeed::Ids(const plan::StepPlan& plan, const plan::PlanMirror& mirror, std::vector<int32_t>* ids) {
  ids->clear();
  for (const plan::SequenceId id : plan.ends) newest_.erase(id);
  for (const plan::Row& row : plan.rows) {
    if (row.source == plan::TokenSource::kLastSample) {
      SHOAL_RETURN_IF_ERROR(LastSample(row.id, &ids->emplace_back()));
      continue;
    }
    const std::vector<int32_t>& tokens = mirror.Find(row.id)->tokens;
    SHOAL_CHECK(row.position + row.count <= static_cast<int64_t>(tokens.size()));  // plan_check has seen to it
    ids->insert(ids->end(), tokens.begin() + row.position, tokens.begin() + row.position + row.count);
  }
  Expect(plan);
  // The writer must never wait for us while we wait for it: with its message to come, at most `slots_` are untaken.
  while (static_cast<int>(expected_.size()) > slots_) SHOAL_RETURN_IF_ERROR(TakeOldest());
  return absl::OkStatus();
}

absl::Status TokenFeed::LastSample(plan::SequenceId id, int32_t* token) {
  const auto it = newest_.find(id);
  if (it == newest_.end()) return absl::InternalError(absl::StrCat("sequence ", id, " has no sample to continue from"));
  while (it->second.token < 0) {
    if (expected_.empty() || expected_.front().step > it->second.step) {
      return absl::InternalError(absl::StrCat("the sample of sequence ", id, " was not in its message"));
    }
    SHOAL_RETURN_IF_ERROR(TakeOldest());
  }
  *token = it->second.token;
  return absl::OkStatus();
}

absl::Status TokenFeed::TakeOldest() {
  const Message& message = expected_.front();
  taken_.resize(message.sampled.size());
  SHOAL_RETURN_IF_ERROR(mailbox_->Take(message.step, taken_));
  for (size_t i = 0; i < taken_.size(); ++i) {
    const auto it = newest_.find(message.sampled[i]);  // gone when the sequence has ended since
    if (it != newest_.end() && it->second.step == message.step) it->second.token = taken_[i];
  }
  expected_.pop_front();
  return absl::OkStatus();
}

void TokenFeed::Expect(const plan::StepPlan& plan) {
  Message message = {.step = plan.stamp.step, .sampled = {}};
  for (const plan::Row& row : plan.rows) {
    if (row.output != plan::RowOutput::kSample) continue;
    message.sampled.push_back(row.id);
    newest_[row.id] = {.step = plan.stamp.step, .token = -1};
  }
  if (!message.sampled.empty()) expected_.push_back(std::move(message));
}

}  // namespace shoal::rank
