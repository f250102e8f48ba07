#include "tools/cli/signals.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace shoal::cli {
namespace {

std::atomic<bool> stop{false};
std::atomic<int> count{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void OnSignal(int) {
  stop.store(true);
  count.fetch_add(1);
}

}  // namespace

const std::atomic<bool>& InstallStopFlag() {
  struct sigaction action {};
  action.sa_handler = OnSignal;  // without SA_RESTART: waits return with EINTR
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  // The launcher starts its children with both blocked: one that came before there was a handler is heard now.
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGINT);
  sigaddset(&both, SIGTERM);
  sigprocmask(SIG_UNBLOCK, &both, nullptr);
  return stop;
}

int StopSignals() { return count.load(); }

bool DieWithParent(int parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  return getppid() == parent;
}

}  // namespace shoal::cli
