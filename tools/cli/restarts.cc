#include "tools/cli/restarts.h"

#include <algorithm>

namespace shoal::cli {
namespace {

constexpr DurationNs kFirstDelay = 100 * kMillisecond, kLongestDelay = 5 * kSecond;
constexpr DurationNs kLongLife = 30 * kSecond;
constexpr DurationNs kLongestLook = 500 * kMillisecond;

}  // namespace

void Restarts::Started(TimeNs now) {
  started_ = now;
  ready_ = false;
}

std::optional<DurationNs> Restarts::Ended(TimeNs now) {
  early_ends_ = ready_ ? 0 : early_ends_ + 1;
  if (early_ends_ >= kMaxEarlyEnds) return std::nullopt;
  if (now - started_ >= kLongLife) starts_ = 0;
  return std::min(kFirstDelay << std::min(starts_++, 10), kLongestDelay);
}

bool StopWatch::Observe(bool stopped, TimeNs now) {
  if (!stopped) {
    Reset();
    return false;
  }
  if (looked_ != 0) stopped_for_ += std::min(now - looked_, kLongestLook);
  looked_ = now;
  return stopped_for_ >= kPatience;
}

}  // namespace shoal::cli
