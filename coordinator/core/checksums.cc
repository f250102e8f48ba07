#include "coordinator/core/checksums.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shoal::core {
namespace {

// Plans that asked and wait for a rank's answer. All ranks of a stage meet in every operation, so they are few.
constexpr size_t kMaxOpen = 64;

}  // namespace

std::vector<int32_t> OddOnes(std::span<const uint64_t> values) {
  const auto count = [&](uint64_t value) { return std::count(values.begin(), values.end(), value); };
  std::optional<uint64_t> usual;
  for (const uint64_t value : values) {
    if (static_cast<size_t>(count(value)) * 2 > values.size()) usual = value;
  }
  std::vector<int32_t> odd;
  for (size_t i = 0; i < values.size(); ++i) {
    if (usual != values[i]) odd.push_back(static_cast<int32_t>(i));
  }
  return odd;
}

bool ChecksumWatch::Ask(uint64_t step, bool must) {
  if (tp_ < 2 || interval_ < 1) return false;
  if (!must && (step - 1) % static_cast<uint64_t>(interval_) != 0) return false;
  // A rank that answers nothing is somebody else's business.
  if (asked_.size() == kMaxOpen) asked_.pop_front();
  asked_.push_back({step, std::vector<uint64_t>(tp_ * stages_, 0), std::vector<int32_t>(stages_, 0), stages_, must});
  return true;
}

std::optional<ChecksumWatch::Mismatch> ChecksumWatch::Note(int32_t rank, uint64_t step, uint64_t checksum) {
  const auto at = std::find_if(asked_.begin(), asked_.end(), [&](const Asked& a) { return a.step == step; });
  if (at == asked_.end()) return std::nullopt;
  const int32_t stage = rank / tp_;
  at->sums[rank] = checksum;
  if (++at->answered[stage] < tp_) return std::nullopt;
  std::optional<Mismatch> mismatch = Compare(*at, stage);
  if (!mismatch.has_value()) ++agreed_;
  if (--at->stages_open > 0) return mismatch;
  if (!at->must && !mismatch.has_value()) ++plans_agreed_;
  asked_.erase(at);
  return mismatch;
}

std::optional<ChecksumWatch::Mismatch> ChecksumWatch::Compare(const Asked& asked, int32_t stage) const {
  const std::span<const uint64_t> sums(asked.sums.data() + stage * tp_, static_cast<size_t>(tp_));
  Mismatch mismatch;
  for (const int32_t index : OddOnes(sums)) mismatch.ranks.push_back(stage * tp_ + index);
  // Two that gave none agree, and are both wrong.
  if (mismatch.ranks.empty() && sums[0] == 0) {
    for (int32_t index = 0; index < tp_; ++index) mismatch.ranks.push_back(stage * tp_ + index);
  }
  if (mismatch.ranks.empty()) return std::nullopt;
  mismatch.text = absl::StrCat("hidden states of stage ", stage, " differ at step ", asked.step, ":");
  for (int32_t index = 0; index < tp_; ++index) {
    absl::StrAppend(&mismatch.text, index == 0 ? " rank " : ", rank ", stage * tp_ + index, " has ",
                    absl::Hex(sums[index], absl::kZeroPad16));
  }
  if (mismatch.ranks.size() == 1) {
    absl::StrAppend(&mismatch.text, "; rank ", mismatch.ranks[0], " is wrong");
  } else {
    absl::StrAppend(&mismatch.text, "; which of them is wrong cannot be told");
  }
  return mismatch;
}

}  // namespace shoal::core
