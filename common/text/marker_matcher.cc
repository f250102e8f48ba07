#include "common/text/marker_matcher.h"

#include <utility>

#include "common/base/check.h"

namespace shoal::text {

MarkerMatcher::MarkerMatcher(std::vector<std::string_view> markers) : markers_(std::move(markers)) {
  for (const std::string_view marker : markers_) {
    for (const std::string_view other : markers_) SHOAL_CHECK(other.find(marker[0], 1) == std::string_view::npos);
  }
}

MarkerMatcher::Step MarkerMatcher::Push(char byte) {
  Step step;
  for (int round = 0; round < 2; ++round) {
    const size_t taken = partial_.size();
    for (size_t i = 0; i < markers_.size(); ++i) {
      const std::string_view marker = markers_[i];
      if (marker.size() <= taken || marker[taken] != byte || marker.substr(0, taken) != partial_) continue;
      step.taken = true;
      partial_ = marker.substr(0, taken + 1);
      if (partial_.size() < marker.size()) continue;
      step.found = static_cast<int>(i);
      partial_ = {};
      return step;
    }
    if (step.taken || taken == 0) break;
    step.broken = partial_;
    partial_ = {};
  }
  return step;
}

}  // namespace shoal::text
