// Tested by: tests/core/isolation_test.cc
// What runs alone: suspects, one after the other in the order of arrival, and the canary.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "coordinator/core/serving.h"

namespace shoal::core {

Sequence* Serving::FindAlone() {
  if (canary_ != nullptr && canary_first_) return &canary_->sequences[0];
  if (!quarantine_) return nullptr;
  Sequence* first = nullptr;
  for (const auto& [id, request] : requests_) {
    if (!RunsAlone(request->suspicion)) continue;
    for (Sequence& s : request->sequences) {
      if (!s.ended && (first == nullptr || s.order < first->order)) first = &s;
    }
  }
  quarantine_ = first != nullptr;
  return first;
}

bool Serving::MakeWay(Sequence& s) {
  // It is in its own plans only: those of others came before it was to run alone.
  if (group_->flight.size() > s.unanswered) return false;
  const int64_t tokens = s.running ? s.computed : static_cast<int64_t>(s.tokens.size());
  const int32_t need =
      plan::BlocksFor(tokens + 1, limits_.block_size) - static_cast<int32_t>(s.running ? s.blocks.size() : 0);
  const auto places = static_cast<size_t>(limits_.max_sequences) - (s.running ? 0 : 1);
  // Each sequence alone fits the cache, so this ends.
  while (group_->pool.free() < need || (!s.running && running_.size() > places)) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [&](const Sequence* r) { return r != &s; });
    SHOAL_CHECK(last != running_.rend());
    Preempt(**last);
  }
  return true;
}

void Serving::BlameAll(const std::vector<Request*>& aboard, const std::string& reason, TimeNs now, EffectList& fx) {
  const bool alone = aboard.size() == 1;
  Request* poison = nullptr;
  std::vector<RequestId> suspects;
  for (Request* r : aboard) {
    if (Blame(alone, &r->suspicion)) {
      poison = r;
    } else if (RunsAlone(r->suspicion)) {
      suspects.push_back(r->id);
    }
  }
  if (!suspects.empty()) {
    quarantine_ = true;
    fx.Warn(absl::StrCat("ranks failed again while they ran: requests ", absl::StrJoin(suspects, " "),
                         " run alone, one after the other"));
  }
  if (poison == nullptr) return;
  for (const auto& [id, request] : requests_) Explained(&request->suspicion);
  ++poisoned_;
  fx.Error(absl::StrCat("request ", poison->id, " is poison: alone it makes ranks fail; it is not tried again"));
  Finish(*poison, FinishReason::kError,
         absl::FailedPreconditionError(
             absl::StrCat("the request makes the ranks that run it fail; it is not tried again. Last: ", reason)),
         0, now, fx);
}

void Serving::StartCanary(std::vector<int32_t> prompt, int32_t tokens, bool first) {
  SHOAL_CHECK(group_ != nullptr && canary_ == nullptr);
  canary_ = std::make_unique<Request>();
  canary_first_ = first;
  Request& r = *canary_;
  r.prompt_tokens = static_cast<int32_t>(prompt.size());
  r.max_tokens = tokens;
  r.sequences.resize(1);
  Sequence& s = r.sequences[0];
  s.request = &r;
  s.order = next_order_++;
  s.tokens = std::move(prompt);
  waiting_.emplace(s.order, &s);
}

void Serving::AcceptCanary(const plan::RowResult& row) {
  Request& r = *canary_;
  Sequence& s = r.sequences[0];
  const bool finite = row.error == plan::RowError::kNone;
  if (finite) {
    s.tokens.push_back(row.tokens[0]);
    if (++r.stats.output_tokens < r.max_tokens) return;
  }
  canary_answer_ = CanaryAnswer{{s.tokens.begin() + r.prompt_tokens, s.tokens.end()}, finite};
  DropCanary();
}

void Serving::DropCanary() {
  TakeOff(canary_->sequences[0]);
  canary_.reset();
}

int32_t Serving::running() const {
  const bool canary = canary_ != nullptr && canary_->sequences[0].running;
  return static_cast<int32_t>(running_.size()) - (canary ? 1 : 0);
}

int32_t Serving::waiting() const {
  const bool canary = canary_ != nullptr && !canary_->sequences[0].running;
  return static_cast<int32_t>(waiting_.size()) - (canary ? 1 : 0);
}

}  // namespace shoal::core
