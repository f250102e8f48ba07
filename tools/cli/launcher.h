// The processes that `serve` keeps alive: a coordinator and, beside it, an agent. Each is started, watched, started
// again when it dies or stands still, and ended in order. One thread; it touches neither gRPC nor the model.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "tools/cli/child_process.h"
#include "tools/cli/restarts.h"

namespace shoal::cli {

// How a child is started, anew each time.
struct StartContext {
  int ready_fd;      // for the child: what it writes there, in lines, is heard; closed afterwards
  bool again;        // not the first life since the coordinator was ready
  bool after_crash;  // the life before ended by a signal that comes from inside (SIGSEGV, SIGABRT, ...)
};
using StartFn = std::function<absl::StatusOr<ChildProcess>(const StartContext&)>;

struct LauncherPlan {
  StartFn start_coordinator;
  StartFn start_agent;  // null: agents come from elsewhere
  // A line of the coordinator that is not "ready". Before the first one no agent is started.
  std::function<void(const std::string& line)> on_line;
  DurationNs shutdown_timeout = 0;  // that the coordinator gives what runs
};

class Launcher {
 public:
  // `stop` outlives this; set by a signal handler.
  Launcher(LauncherPlan plan, const std::atomic<bool>* stop);

  // The exit code of the program, once all has ended: after a stop that of the coordinator. Until the coordinator has
  // been ready for the first time, the end of a child is the end of all; so is, at any time, the coordinator's exit
  // with 0 and a child that keeps dying before it is ready. An agent that exits with 0 was told to by somebody else,
  // after a drain: it stays down, and the coordinator goes on with the agents that it has.
  int Run();

 private:
  struct Child {
    const char* name;
    const char* back;  // what "ready" means for it
    Restarts restarts = {};
    StopWatch stops = {};
    std::optional<ChildProcess> process = {};
    int ready_fd = -1;         // what it writes; -1: closed
    std::string heard = {};    // of a line that has begun
    TimeNs start_at = 0;       // 0: not planned
    bool told_to_end = false;  // by somebody else: it is not started again
    bool crashed = false;      // its last life ended by its own doing
    TimeNs ended_at = 0;       // 0: no end that it has not come back from
    std::string end = {};      // that one: "was killed by signal 9 (Killed)"
  };

  absl::Status Start(Child& child, const StartFn& start);
  void Listen(Child& child);
  void HangUp(Child& child);
  void OnLine(Child& child, const std::string& line);
  // The exit code of the program, when it has come to that.
  std::optional<int> Look(Child& child);
  std::optional<int> OnEnd(Child& child, int code, const std::string& end);
  std::optional<int> StartAgain(Child& child, const std::string& who, const std::string& end);
  std::optional<int> StartWhatIsDue();
  void WaitForNews();
  int EndAll(DurationNs shutdown_timeout);

  const LauncherPlan plan_;
  const std::atomic<bool>& stop_;
  const RealClock clock_;
  Child coordinator_{"coordinator", "serving again"}, agent_{"local agent", "registered again"};
  bool was_ready_ = false;  // the coordinator, once
};

}  // namespace shoal::cli
