#include "coordinator/core/canary.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::core {
namespace {

constexpr int32_t kPromptTokens = 8;

}  // namespace

CanaryWatch::CanaryWatch(DurationNs interval, const std::vector<KnownCanary>& known) : interval_(interval) {
  for (const KnownCanary& k : known) {
    if (known_.size() < kMaxKnownCanaries && known_.emplace(k.key, k.tokens).second) inherited_.insert(k.key);
  }
}

std::string CanaryWatch::Key(const std::string& numerics_id, const std::string& revision,
                             const std::vector<int32_t>& prompt) {
  return absl::StrCat(numerics_id, " of ", revision, " asked ", absl::StrJoin(prompt, ","), " for ", kTokens);
}

std::vector<int32_t> CanaryWatch::Prompt(const plan::MirrorLimits& limits) {
  const int64_t room = std::min<int64_t>(limits.max_model_len, int64_t{limits.blocks} * limits.block_size) - kTokens;
  std::vector<int32_t> prompt;
  // Spread over the vocabulary, so that rows of every tensor rank are read.
  for (int64_t i = 0; i < std::min<int64_t>(room, kPromptTokens); ++i) {
    prompt.push_back(static_cast<int32_t>((2 * i + 1) * limits.vocab / (2 * kPromptTokens)));
  }
  return prompt;
}

void CanaryWatch::GroupReady(TimeNs now) {
  next_ = now;
  passed_ = false;
  if (interval_ == 0) gives_up_ = false;
}

void CanaryWatch::Busy(TimeNs now) {
  if (!distrusted_) next_ = now + interval_;
}

std::string CanaryWatch::Judge(const std::string& key, const CanaryAnswer& answer, TimeNs now) {
  next_ = now + interval_;
  const auto known = known_.find(key);
  const bool again = known == known_.end() && once_.has_value() && once_->key == key;
  std::string wrong;
  if (!answer.finite) {
    wrong = "the canary's output is not a number";
  } else if (known != known_.end() && known->second != answer.tokens) {
    wrong = absl::StrCat("the canary was answered with tokens ", absl::StrJoin(answer.tokens, " "), " instead of ",
                         absl::StrJoin(known->second, " "),
                         inherited_.contains(key) ? ", which a coordinator before this one learned" : "");
  } else if (again && once_->tokens != answer.tokens) {
    wrong = absl::StrCat("the canary was answered with tokens ", absl::StrJoin(answer.tokens, " "), " after ",
                         absl::StrJoin(once_->tokens, " "));
  }
  if (!wrong.empty()) {
    wrong += ": a rank computes wrongly";
    Failed(wrong);
    return wrong;
  }
  if (known == known_.end() && !again) {
    once_ = {key, answer.tokens};
    next_ = now;
    return wrong;
  }
  if (again) Learn(*std::exchange(once_, std::nullopt));
  ++passes_;
  passed_ = true;
  distrusted_ = false;
  failures_in_row_ = 0;
  gives_up_ = false;
  return wrong;
}

void CanaryWatch::Learn(KnownCanary known) {
  if (known_.size() >= kMaxKnownCanaries || known.key.size() > kMaxCanaryKeyBytes) return;
  known_.emplace(known.key, known.tokens);
  learned_ = std::move(known);
}

void CanaryWatch::Failed(const std::string& why) {
  ++failures_;
  ++failures_in_row_;
  distrusted_ = true;
  once_.reset();
  last_failure_ = why;
  gives_up_ = gives_up_ || failures_in_row_ >= kMaxCanaryFailures;
}

void CanaryWatch::Distrust(const std::string& why) {
  distrusted_ = interval_ > 0;
  ++mismatches_in_row_;
  once_.reset();
  last_failure_ = why;
  gives_up_ = gives_up_ || mismatches_in_row_ >= kMaxCanaryFailures;
}

void CanaryWatch::Suspect(TimeNs now) {
  if (interval_ == 0 || now < suspect_after_) return;
  suspect_after_ = now + interval_;
  distrusted_ = true;
  next_ = now;
}

std::string CanaryWatch::Summary() const {
  if (failures_in_row_ >= mismatches_in_row_) {
    return absl::StrCat(failures_in_row_, " canaries in a row failed: ", last_failure_);
  }
  return absl::StrCat(mismatches_in_row_, " times in a row ranks disagreed about plans of clients: ", last_failure_);
}

}  // namespace shoal::core
