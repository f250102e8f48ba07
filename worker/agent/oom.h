// How often the kernel's out-of-memory killer has struck: what tells its SIGKILL from anybody else's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shoal::agent {

// "oom_kill N" of a control group's memory.events (version 2) or of /proc/vmstat. Nothing when there is no such line.
std::optional<uint64_t> ParseOomKills(std::string_view text);
// Where the memory.events of the control group (version 2) lies that /proc/self/cgroup names; empty when there is none,
// or none that this process can see.
std::string OomEventsPath(std::string_view proc_self_cgroup);

// Of this process's control group and those below it; where that does not say, of the machine. Nothing when neither
// does. A rank is in its agent's group. `root`: where the file system begins; empty but in tests.
std::optional<uint64_t> OomKills(const std::string& root = "");

}  // namespace shoal::agent
