// Tested by: tests/agent/oom_test.cc
#include "worker/agent/oom.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "worker/agent/host.h"

namespace shoal::agent {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::optional<uint64_t> ParseOomKills(std::string_view text) {
  for (absl::string_view line : absl::StrSplit(View(text), '\n')) {
    uint64_t kills = 0;
    if (absl::ConsumePrefix(&line, "oom_kill ") && absl::SimpleAtoi(line, &kills)) return kills;
  }
  return std::nullopt;
}

// cgroups(7): lines "ID:CONTROLLERS:PATH"; version 2 is the one with "0::". Beside version 1 it may be mounted without
// the memory controller: then its file does not exist.
std::string OomEventsPath(std::string_view proc_self_cgroup) {
  for (absl::string_view line : absl::StrSplit(View(proc_self_cgroup), '\n')) {
    if (!absl::ConsumePrefix(&line, "0::/")) continue;
    // Of a group outside of what this namespace sees: "/../other".
    if (absl::StartsWith(line, "..")) return {};
    return absl::StrCat("/sys/fs/cgroup/", line, line.empty() ? "" : "/", "memory.events");
  }
  return {};
}

std::optional<uint64_t> OomKills(const std::string& root) {
  const std::string events = OomEventsPath(ReadSmallFile(root + "/proc/self/cgroup"));
  if (!events.empty()) {
    const auto kills = ParseOomKills(ReadSmallFile(root + events));
    if (kills.has_value()) return kills;
  }
  return ParseOomKills(ReadSmallFile(root + "/proc/vmstat"));
}

}  // namespace shoal::agent
