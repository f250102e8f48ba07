// What `serve` shows while it comes up: the shard plan, a progress line while loading, and how to call the server.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/plan/shard_plan.h"

namespace shoal::cli {

// "1.5 GiB", "312 MiB", "17 B".
std::string HumanBytes(int64_t bytes);

// "3-5", "5", and "-" for none: the last one is in it.
std::string Span(const plan::Range& r);

// Columns as wide as their widest cell; the first is left-aligned, the others right-aligned. Each line begins with
// `indent` spaces.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows, int indent = 0);

// One line that is rewritten in place on a terminal, and printed at most every 2 s elsewhere. Bytes, rate and the time
// that is left.
class ProgressLine {
 public:
  ProgressLine(std::FILE* out, bool in_place, const Clock* clock) : out_(out), in_place_(in_place), clock_(clock) {}

  void Update(std::string_view what, int64_t done, int64_t total);
  // Ends the line when one is open.
  void Finish();

 private:
  std::FILE* out_;
  bool in_place_;
  const Clock* clock_;
  TimeNs begin_ = 0, shown_ = 0;
  bool open_ = false;
};

}  // namespace shoal::cli
