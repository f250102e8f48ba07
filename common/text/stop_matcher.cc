// Stop strings: one Knuth-Morris-Pratt automaton each, all fed with the same bytes.
#include <algorithm>
#include <utility>

#include "common/text/detokenizer.h"

namespace shoal::text {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop) : include_stop_(include_stop) {
  stops_.reserve(stops.size());
  for (std::string& text : stops) {
    Stop stop;
    stop.text = std::move(text);
    stop.failure.assign(stop.text.size(), 0);
    uint32_t border = 0;
    for (size_t i = 1; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.failure[border - 1];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.failure[i] = border;
    }
    stops_.push_back(std::move(stop));
  }
}

int StopMatcher::Step(char byte) {
  int found = -1;
  for (size_t i = 0; i < stops_.size(); ++i) {
    Stop& stop = stops_[i];
    if (stop.text.empty()) continue;
    while (stop.matched > 0 && stop.text[stop.matched] != byte) stop.matched = stop.failure[stop.matched - 1];
    if (stop.text[stop.matched] == byte) ++stop.matched;
    if (stop.matched < stop.text.size()) continue;
    if (found < 0 || stop.text.size() > stops_[found].text.size()) found = static_cast<int>(i);
  }
  return found;
}

StopMatcher::Output StopMatcher::Push(std::string_view text) {
  if (stopped_) return {std::string(), true, stop_index_};
  for (const char byte : text) {
    held_.push_back(byte);
    const int found = Step(byte);
    if (found < 0) continue;
    stopped_ = true;
    stop_index_ = found;
    if (!include_stop_) held_.resize(held_.size() - stops_[found].text.size());
    return {Finish(), true, found};
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.matched);
  std::string safe = held_.substr(sent_, held_.size() - keep - sent_);
  sent_ += safe.size();
  if (sent_ > held_.size() / 2) {
    held_.erase(0, sent_);
    sent_ = 0;
  }
  return {std::move(safe), false, -1};
}

std::string StopMatcher::Finish() {
  std::string rest = held_.substr(sent_);
  held_.clear();
  sent_ = 0;
  return rest;
}

}  // namespace shoal::text
