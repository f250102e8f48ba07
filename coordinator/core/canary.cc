#include "coordinator/core/canary.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::core {
namespace {

constexpr int32_t kPromptTokens = 8;

// Layouts that one coordinator sees. Agents name them: more are not remembered.
constexpr size_t kMaxKnown = 64;

}  // namespace

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

std::string CanaryWatch::Judge(const std::string& numerics_id, const CanaryAnswer& answer) {
  const auto known = known_.find(numerics_id);
  std::string wrong;
  if (!answer.finite) {
    wrong = "the canary's output is not a number";
  } else if (known != known_.end() && known->second != answer.tokens) {
    wrong = absl::StrCat("the canary was answered with tokens ", absl::StrJoin(answer.tokens, " "), " instead of ",
                         absl::StrJoin(known->second, " "));
  }
  if (wrong.empty()) {
    if (known == known_.end() && known_.size() < kMaxKnown) known_.emplace(numerics_id, answer.tokens);
    ++passes_;
    passed_ = true;
    distrusted_ = false;
    failures_in_row_ = 0;
    gives_up_ = false;
    return wrong;
  }
  wrong += ": a rank computes wrongly";
  Failed(wrong);
  return wrong;
}

void CanaryWatch::Failed(const std::string& why) {
  ++failures_;
  ++failures_in_row_;
  distrusted_ = true;
  last_failure_ = why;
  gives_up_ = gives_up_ || failures_in_row_ >= kMaxCanaryFailures;
}

void CanaryWatch::Distrust(const std::string& why) {
  distrusted_ = interval_ > 0;
  ++mismatches_in_row_;
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
