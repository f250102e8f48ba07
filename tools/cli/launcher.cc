// Tested by: tests/e2e/restart_test.py, tests/e2e/serve_test.py, tests/e2e/launch_test.py
#include "tools/cli/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/cli/signals.h"

namespace shoal::cli {
namespace {

constexpr DurationNs kAgentGrace = 10 * kSecond;  // for the agent to end its ranks
constexpr DurationNs kDrainMargin = 5 * kSecond;  // past the shutdown time-out before the coordinator is killed
constexpr DurationNs kLook = 200 * kMillisecond;  // how late a stopped child, or a signal to this process, is seen
constexpr size_t kLongestLine = 4096;

double Seconds(DurationNs time) { return static_cast<double>(time) / kSecond; }

void Say(const std::string& text) { std::fprintf(stderr, "shoal: %s\n", text.c_str()); }

std::string Describe(int code) {
  if (code <= 128) return absl::StrCat("exited with ", code);
  return absl::StrCat("was killed by signal ", code - 128, " (", strsignal(code - 128), ")");
}

// Whether this end may be the doing of what the process was working at, and no operator's or kernel's.
bool CameFromInside(int code) {
  for (const int inside : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
    if (code == 128 + inside) return true;
  }
  return false;
}

}  // namespace

Launcher::Launcher(LauncherPlan plan, const std::atomic<bool>* stop) : plan_(std::move(plan)), stop_(*stop) {}

int Launcher::Run() {
  coordinator_.start_at = clock_.Now();
  while (!stop_.load()) {
    if (const std::optional<int> code = StartWhatIsDue()) return *code;
    WaitForNews();
    for (Child* child : {&coordinator_, &agent_}) {
      Listen(*child);
      if (const std::optional<int> code = Look(*child)) return *code;
    }
  }
  return EndAll(plan_.shutdown_timeout);
}

std::optional<int> Launcher::StartWhatIsDue() {
  for (Child* child : {&coordinator_, &agent_}) {
    if (child->start_at == 0 || clock_.Now() < child->start_at) continue;
    const absl::Status started = Start(*child, child == &agent_ ? plan_.start_agent : plan_.start_coordinator);
    if (started.ok()) continue;
    if (was_ready_) {
      const auto code = StartAgain(*child, child->name, absl::StrCat("could not be started: ", started.message()));
      if (code.has_value()) return code;
      continue;
    }
    Say(std::string(started.message()));
    EndAll(0);
    return 1;
  }
  return std::nullopt;
}

absl::Status Launcher::Start(Child& child, const StartFn& start) {
  child.restarts.Started(clock_.Now());
  child.start_at = 0;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    return absl::InternalError(absl::StrCat("pipe2: ", std::strerror(errno)));
  }
  auto started = start({ends[1], was_ready_, child.crashed});
  close(ends[1]);
  if (!started.ok()) {
    close(ends[0]);
    return started.status();
  }
  child.ready_fd = ends[0];
  child.process.emplace(std::move(*started));
  child.stops.Reset();
  return absl::OkStatus();
}

void Launcher::HangUp(Child& child) {
  if (child.ready_fd >= 0) close(child.ready_fd);
  child.ready_fd = -1;
  child.heard.clear();
}

// Takes what the child has written.
void Launcher::Listen(Child& child) {
  while (child.ready_fd >= 0) {
    char bytes[512];
    const ssize_t n = read(child.ready_fd, bytes, sizeof bytes);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || child.heard.size() > kLongestLine) return HangUp(child);
    child.heard.append(bytes, static_cast<size_t>(n));
    for (size_t end; (end = child.heard.find('\n')) != std::string::npos;) {
      const std::string line = child.heard.substr(0, end);
      child.heard.erase(0, end + 1);
      OnLine(child, line);
    }
  }
}

void Launcher::OnLine(Child& child, const std::string& line) {
  if (line != "ready") {
    plan_.on_line(line);
    const bool first =
        &child == &coordinator_ && !agent_.process.has_value() && agent_.start_at == 0 && !agent_.told_to_end;
    if (first && plan_.start_agent != nullptr) agent_.start_at = clock_.Now();
    return;
  }
  child.restarts.Ready();
  if (&child == &coordinator_) was_ready_ = true;
  if (child.ended_at == 0) return;
  Say(absl::StrFormat("the %s is back, pid %d: it %s; %s after %.2f s", child.name, child.process->pid(), child.end,
                      child.back, Seconds(clock_.Now() - child.ended_at)));
  child.ended_at = 0;
}

// Has it ended, or does it stand still?
std::optional<int> Launcher::Look(Child& child) {
  if (!child.process.has_value()) return std::nullopt;
  if (const std::optional<int> code = child.process->Wait(0)) {
    for (Child* each : {&coordinator_, &agent_}) Listen(*each);  // last words
    return OnEnd(child, *code, Describe(*code));
  }
  // Before it has ever been ready, whoever stopped it may want to look at its start.
  if (!was_ready_ || !child.stops.Observe(child.process->Stopped(), clock_.Now())) return std::nullopt;
  child.process->Signal(SIGKILL);
  child.process->Wait(-1);
  return OnEnd(child, 128 + SIGKILL,
               absl::StrCat("had been stopped for ", StopWatch::kPatience / kSecond, " s and was killed"));
}

std::optional<int> Launcher::OnEnd(Child& child, int code, const std::string& end) {
  if (stop_.load()) return std::nullopt;  // it may have been told to, as we have been
  const std::string who = absl::StrCat(child.name, ", pid ", child.process->pid(), ",");
  const bool agent = &child == &agent_;
  child.crashed = CameFromInside(code);
  child.process.reset();
  HangUp(child);
  if (agent && code == 0 && was_ready_) {
    Say(absl::StrCat("the ", who, " ended as it was told to; it is not started again, and the coordinator goes on"));
    child.told_to_end = true;
    return std::nullopt;
  }
  if (code == 0 || !was_ready_) {
    if (agent) Say(absl::StrCat("the local agent ended with ", code, "; shutting down"));
    if (!agent && code > 128) Say(absl::StrCat("the ", who, " ", end, " before it was ready for the first time"));
    EndAll(agent ? 0 : plan_.shutdown_timeout);
    return agent ? 1 : code;
  }
  return StartAgain(child, who, end);
}

// After its end, or after a start that failed.
std::optional<int> Launcher::StartAgain(Child& child, const std::string& who, const std::string& end) {
  const TimeNs now = clock_.Now();
  const std::optional<DurationNs> delay = child.restarts.Ended(now);
  if (!delay.has_value()) {
    Say(absl::StrCat("the ", child.name, " has ended ", Restarts::kMaxEarlyEnds,
                     " times in a row before it was ready; the last time it ", end, "; giving up"));
    EndAll(plan_.shutdown_timeout);
    return 1;
  }
  if (child.ended_at == 0) child.ended_at = now;
  child.end = end;
  child.start_at = now + *delay;
  Say(absl::StrFormat("the %s %s; it is started again in %.1f s", who, end, Seconds(*delay)));
  return std::nullopt;
}

// Until a child ends or says something, a start is due, or it is time to look whether one stands still.
void Launcher::WaitForNews() {
  pollfd fds[4];
  TimeNs until = clock_.Now() + kLook;
  int count = 0;
  for (const Child* child : {&coordinator_, &agent_}) {
    fds[count++] = {child->process.has_value() ? child->process->pidfd() : -1, POLLIN, 0};
    fds[count++] = {child->ready_fd, POLLIN, 0};
    if (child->start_at != 0) until = std::min(until, child->start_at);
  }
  const DurationNs left = std::max<DurationNs>(0, until - clock_.Now());
  // Finite, in case a signal comes between the test and the call.
  poll(fds, count, static_cast<int>((left + kMillisecond - 1) / kMillisecond));
}

// Ends the coordinator (draining), then the agent. The exit code of the coordinator; 0 when it is not there.
int Launcher::EndAll(DurationNs shutdown_timeout) {
  int code = 0;
  if (coordinator_.process.has_value()) {
    ChildProcess& coordinator = *coordinator_.process;
    const int signals_before = StopSignals();
    coordinator.Signal(SIGTERM);
    coordinator.Signal(SIGCONT);  // a stopped one would not hear it
    const TimeNs deadline = clock_.Now() + shutdown_timeout + kDrainMargin;
    std::optional<int> ended;
    const char* killed = nullptr;  // why
    while (!(ended = coordinator.Wait(100 * kMillisecond)).has_value()) {
      if (clock_.Now() > deadline) killed = "it had not ended in time";
      if (StopSignals() > std::max(signals_before, 1)) killed = "a second signal came";
      if (killed != nullptr) coordinator.Signal(SIGKILL);
    }
    code = *ended;
    // What it says of itself needs no words of ours.
    if (killed != nullptr) {
      Say(absl::StrCat("the coordinator was killed: ", killed));
    } else if (code > 128) {
      Say(absl::StrCat("the coordinator died of signal ", code - 128, " while it ended"));
    }
  }
  if (agent_.process.has_value()) {
    ChildProcess& agent = *agent_.process;
    agent.Signal(SIGTERM);
    agent.Signal(SIGCONT);
    if (!agent.Wait(kAgentGrace).has_value()) {
      agent.Signal(SIGKILL);
      agent.Wait(-1);
    }
  }
  return code;
}

}  // namespace shoal::cli
