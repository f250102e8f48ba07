#include "worker/agent/rank_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/control.h"
#include "worker/rank/operation.h"

namespace shoal::agent {
namespace {

constexpr DurationNs kInterval = 100 * kMillisecond;

// One line of /proc/<pid>/task/<tid>/stat: proc(5) counts its fields from 1; the second is a name in parentheses, which
// may hold anything.
bool ReadThread(const std::string& path, ProcessLook::Thread* thread, uint64_t* page_faults) {
  char line[1024];
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t size = ::read(fd, line, sizeof line - 1);
  ::close(fd);
  if (size <= 0) return false;
  line[size] = '\0';
  const char* const after_name = std::strrchr(line, ')');
  char state = 0;
  unsigned long long faults = 0, user = 0, system = 0;  // fields 12, 14 and 15
  if (after_name == nullptr || std::sscanf(after_name + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %llu %*u %llu %llu",
                                           &state, &faults, &user, &system) != 4) {
    return false;
  }
  static const DurationNs tick = kSecond / std::max(1L, ::sysconf(_SC_CLK_TCK));
  thread->cpu = static_cast<DurationNs>(user + system) * tick;
  thread->running = state == 'R';
  *page_faults += faults;
  return true;
}

}  // namespace

ProcessLook LookAtProcess(pid_t pid) {
  ProcessLook look;
  const std::string directory = absl::StrCat("/proc/", pid, "/task");
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir(directory.c_str()), ::closedir);
  if (tasks == nullptr) return look;
  while (const dirent* entry = ::readdir(tasks.get())) {
    ProcessLook::Thread thread;
    thread.id = std::atoi(entry->d_name);
    if (thread.id <= 0) continue;
    if (ReadThread(absl::StrCat(directory, "/", entry->d_name, "/stat"), &thread, &look.page_faults)) {
      look.threads.push_back(thread);
    }
  }
  return look;
}

// A rank that ended its engine has nothing to do but to go away.
PageLook LookAtPage(const rank::ControlPage& page, uint64_t last_step) {
  const uint32_t state = page.state.load(std::memory_order_relaxed);
  const bool executes = state >= static_cast<uint32_t>(plan::RankState::kRunning);
  const bool ready = state >= static_cast<uint32_t>(plan::RankState::kReady);
  PageLook look;
  look.busy = executes || (ready && page.step.load(std::memory_order_relaxed) < last_step);
  look.progress = page.progress.load(std::memory_order_relaxed) + page.waiting.looks.load(std::memory_order_relaxed);
  return look;
}

std::string StuckCause(const rank::ControlPage& page) {
  const uint32_t operation = page.operation.load(std::memory_order_relaxed);
  return absl::StrCat("stuck in ", std::string(rank::OperationName(operation)), " at step ",
                      page.step.load(std::memory_order_relaxed) + 1);
}

RankWatch::RankWatch(std::vector<Watched> ranks, const std::atomic<uint64_t>* last_step)
    : ranks_(std::move(ranks)), last_step_(last_step), thread_([this] { Run(); }) {}

RankWatch::~RankWatch() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void RankWatch::Run() {
  const RealClock clock;
  std::vector<StuckJudge> judges(ranks_.size());
  std::vector<bool> told(ranks_.size(), false);
  TimeNs last = clock.Now();
  while (true) {
    {
      MutexLock lock(mutex_);
      const TimeNs next = last + kInterval;
      for (TimeNs now = clock.Now(); !stop_ && now < next; now = clock.Now()) {
        changed_.WaitFor(mutex_, std::chrono::nanoseconds(next - now));
      }
      if (stop_) return;
    }
    // A late look says something about this process, not about ranks: it counts as one that came on time.
    last = clock.Now();
    for (size_t i = 0; i < ranks_.size(); ++i) {
      const Watched& rank = ranks_[i];
      if (told[i] || rank.gone()) continue;
      const PageLook page = LookAtPage(*rank.page, last_step_->load(std::memory_order_relaxed));
      if (!judges[i].Look(
              page, [&rank] { return LookAtProcess(rank.pid); }, kInterval))
        continue;
      told[i] = true;
      rank.on_stuck();
    }
  }
}

}  // namespace shoal::agent
