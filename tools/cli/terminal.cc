#include "tools/cli/terminal.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shoal::cli {

std::string HumanBytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) value /= 1024, ++unit;
  if (unit == 0) return absl::StrCat(bytes, " B");
  return value < 10 ? absl::StrFormat("%.2f %s", value, kUnits[unit]) : absl::StrFormat("%.0f %s", value, kUnits[unit]);
}

std::string Span(const plan::Range& r) {
  return r.size() == 0 ? "-" : r.size() == 1 ? absl::StrCat(r.begin) : absl::StrCat(r.begin, "-", r.end - 1);
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows, int indent) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line(static_cast<size_t>(indent), ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      absl::StrAppend(&line, i == 0 ? "" : "  ", i == 0 ? row[i] + pad : pad + row[i]);
    }
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

void ProgressLine::Update(std::string_view what, int64_t done, int64_t total) {
  const TimeNs now = clock_->Now();
  if (begin_ == 0) begin_ = now;
  constexpr DurationNs kQuiet = 2 * kSecond;
  if (!in_place_ && shown_ != 0 && now - shown_ < kQuiet && done < total) return;
  shown_ = now;
  const double seconds = static_cast<double>(now - begin_) / kSecond;
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string line = absl::StrFormat("%s  %s of %s", what, HumanBytes(done), HumanBytes(total));
  if (rate > 0) {
    absl::StrAppend(&line, "  ", HumanBytes(static_cast<int64_t>(rate)), "/s  ",
                    absl::StrFormat("%.1f s left", static_cast<double>(total - done) / rate));
  }
  std::fprintf(out_, in_place_ ? "\r\x1b[K%s" : "%s\n", line.c_str());
  std::fflush(out_);
  open_ = in_place_;
}

void ProgressLine::Finish() {
  if (open_) std::fputc('\n', out_);
  std::fflush(out_);
  open_ = false;
}

}  // namespace shoal::cli
