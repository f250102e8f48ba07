#include "worker/rank/token_feed.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::rank {

absl::StatusOr<TokenFeed> TokenFeed::Create(device::Device* device, comm::TokenMailbox* mailbox, int slots,
                                            int max_sequences, const Places* places) {
  TokenFeed feed(device, mailbox, slots, places);
  const size_t bytes = static_cast<size_t>(max_sequences) * sizeof(int32_t);
  SHOAL_ASSIGN_OR_RETURN(feed.last_, device->Allocate(bytes));
  SHOAL_ASSIGN_OR_RETURN(feed.taken_, device->Allocate(bytes));
  return feed;
}

absl::Status TokenFeed::Sources(const plan::StepPlan& plan, const plan::PlanMirror& mirror,
                                std::vector<int32_t>* sources) {
  sources->clear();
  for (const plan::SequenceId id : plan.ends) newest_.erase(id);
  for (const plan::Row& row : plan.rows) {
    if (row.source == plan::TokenSource::kLastSample) {
      SHOAL_RETURN_IF_ERROR(LastSample(row.id, &sources->emplace_back()));
      continue;
    }
    const std::vector<int32_t>& tokens = mirror.Find(row.id)->tokens;
    SHOAL_CHECK(row.position + row.count <= static_cast<int64_t>(tokens.size()));  // plan_check has seen to it
    sources->insert(sources->end(), tokens.begin() + row.position, tokens.begin() + row.position + row.count);
  }
  Expect(plan);
  // The writer must never wait for us while we wait for it: with its message to come, at most `slots_` are untaken.
  while (static_cast<int>(expected_.size()) > slots_) SHOAL_RETURN_IF_ERROR(TakeOldest());
  return absl::OkStatus();
}

absl::Status TokenFeed::LastSample(plan::SequenceId id, int32_t* source) {
  const auto it = newest_.find(id);
  if (it == newest_.end()) return absl::InternalError(absl::StrCat("sequence ", id, " has no sample to continue from"));
  while (!it->second.taken) {
    if (expected_.empty() || expected_.front().step > it->second.step) {
      return absl::InternalError(absl::StrCat("the sample of sequence ", id, " was not in its message"));
    }
    SHOAL_RETURN_IF_ERROR(TakeOldest());
  }
  *source = ~places_->Find(id)->index;
  return absl::OkStatus();
}

absl::Status TokenFeed::TakeOldest() {
  const Message& message = expected_.front();
  const size_t count = message.sampled.size();
  SHOAL_RETURN_IF_ERROR(mailbox_->Take(message.step, {taken_.as<int32_t>(), count}));
  indices_.assign(count, -1);
  for (size_t i = 0; i < count; ++i) {
    const auto it = newest_.find(message.sampled[i]);  // gone when the sequence has ended since
    if (it == newest_.end() || it->second.step != message.step) continue;
    it->second.taken = true;
    indices_[i] = places_->Find(message.sampled[i])->index;
  }
  SHOAL_ASSIGN_OR_RETURN(const int32_t* const places, message_places_.Put(std::span<const int32_t>(indices_)));
  expected_.pop_front();
  return device_->table().scatter_ids(device_->stream(), {.tokens = taken_.as<const int32_t>(),
                                                          .places = places,
                                                          .last = last_.as<int32_t>(),
                                                          .count = static_cast<int>(count)});
}

void TokenFeed::Expect(const plan::StepPlan& plan) {
  Message message = {.step = plan.stamp.step, .sampled = {}};
  for (const plan::Row& row : plan.rows) {
    if (!plan::Samples(row.output)) continue;
    message.sampled.push_back(row.id);
    newest_[row.id] = {.step = plan.stamp.step, .taken = false};
  }
  if (!message.sampled.empty()) expected_.push_back(std::move(message));
}

}  // namespace shoal::rank
