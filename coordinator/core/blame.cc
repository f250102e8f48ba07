#include "coordinator/core/blame.h"

#include <csignal>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/plan/control.h"

namespace shoal::core {

bool Blames(std::string_view cause) {
  // Agents say so when the kernel did it: what the rank had to hold grew with its step.
  if (cause == "killed by signal 9: out of memory") return true;
  const std::string lost = absl::StrCat("exited with ", plan::kLostPeerExit);
  if (cause == lost || cause.starts_with(lost + ":")) return false;
  constexpr std::string_view kBefore = "by signal ";
  const size_t at = cause.find(kBefore);
  if (at == std::string_view::npos) return true;
  cause.remove_prefix(at + kBefore.size());
  cause = cause.substr(0, cause.find_first_not_of("0123456789"));
  int signal = 0;
  if (!absl::SimpleAtoi(absl::string_view(cause.data(), cause.size()), &signal)) return true;
  for (int outside : {SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGSTOP, SIGTSTP}) {
    if (signal == outside) return false;
  }
  return true;
}

}  // namespace shoal::core
