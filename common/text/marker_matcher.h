// Finds markers in text that comes byte by byte.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace shoal::text {

// No marker's first byte may come again within a marker: then a match that breaks off can only begin anew with the byte
// that broke it. The views must outlive this.
class MarkerMatcher {
 public:
  explicit MarkerMatcher(std::vector<std::string_view> markers);

  struct Step {
    int found = -1;           // index of the marker that this byte completes
    bool taken = false;       // the byte is part of a marker, or may be
    std::string_view broken;  // what was taken before and is no marker after all
  };
  Step Push(char byte);

  void Reset() { partial_ = {}; }
  // What has been taken and is not yet decided.
  std::string_view partial() const { return partial_; }

 private:
  std::vector<std::string_view> markers_;
  std::string_view partial_;
};

}  // namespace shoal::text
