// Tested by: tests/e2e/serve_test.py
#include "tools/cli/serve.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "tools/cli/child_process.h"
#include "tools/cli/signals.h"

namespace shoal::cli {
namespace {

constexpr char kSelf[] = "/proc/self/exe";
constexpr int kConfigFd = 3, kReadyFd = 4;        // in the coordinator
constexpr DurationNs kAgentGrace = 10 * kSecond;  // for the agent to end its ranks
constexpr DurationNs kDrainMargin = 5 * kSecond;  // past the shutdown time-out before the coordinator is killed

// A memory file with the options; not the command line, which anybody on the host can read.
absl::StatusOr<int> ConfigFile(const ServeOptions& options) {
  const std::string yaml = ToYaml(options);
  const int fd = memfd_create("shoal-config", MFD_CLOEXEC);
  if (fd < 0 || write(fd, yaml.data(), yaml.size()) != static_cast<ssize_t>(yaml.size())) {
    return absl::InternalError("cannot write the configuration to a memory file");
  }
  return fd;
}

absl::StatusOr<ChildProcess> StartCoordinator(const ServeOptions& options, int* ready_fd) {
  SHOAL_ASSIGN_OR_RETURN(const int config, ConfigFile(options));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError("pipe2 failed");
  // CLI values: "/proc/self/fd/3" opens the memory file anew, at its start.
  auto child = ChildProcess::Start({kSelf, "coordinator", "--config", absl::StrCat("/proc/self/fd/", kConfigFd),
                                    "--ready-fd", absl::StrCat(kReadyFd), "--launcher", absl::StrCat(getpid())},
                                   {{config, kConfigFd}, {ends[1], kReadyFd}});
  close(config);
  close(ends[1]);
  *ready_fd = ends[0];
  return child;
}

// The address that the coordinator writes once agents can register; empty when it ended before.
std::string ReadAddress(int fd, const std::atomic<bool>& stop) {
  std::string line;
  char c;
  for (;;) {
    const ssize_t n = read(fd, &c, 1);
    if (n < 0 && !stop.load()) continue;
    if (n <= 0) return "";
    if (c == '\n') return line;
    line += c;
  }
}

absl::StatusOr<ChildProcess> StartAgent(const ServeOptions& o, const std::string& address) {
  const size_t colon = address.rfind(':');
  std::vector<std::string> argv = {kSelf,           "worker",
                                   "--launcher",    absl::StrCat(getpid()),
                                   "--master-addr", address.substr(0, colon),
                                   "--master-port", address.substr(colon + 1)};
  // Of tp * pp ranks, this host runs its share; the agents of other hosts bring the rest.
  const int ranks = o.tensor_parallel_size * o.pipeline_parallel_size;
  argv.insert(argv.end(), {"--slots", absl::StrCat((ranks + o.nnodes - 1) / o.nnodes)});
  argv.insert(argv.end(), {"--threads", absl::StrCat(o.threads), "--device", o.device});
  argv.insert(argv.end(), {"--orphan-timeout", absl::StrCat(o.orphan_timeout)});
  if (o.insecure) argv.push_back("--insecure");
  return ChildProcess::Start(argv, {});
}

// Until one of the children ends or a signal comes.
void WaitForNews(const ChildProcess& coordinator, const std::optional<ChildProcess>& agent,
                 const std::atomic<bool>& stop) {
  pollfd fds[2] = {{coordinator.pidfd(), POLLIN, 0}, {agent.has_value() ? agent->pidfd() : -1, POLLIN, 0}};
  while (!stop.load()) {
    // Finite, in case a signal comes between the test and the call.
    if (poll(fds, 2, 200) > 0) return;
  }
}

// Ends the coordinator (draining), then the agent. The exit code of the coordinator.
int EndBoth(ChildProcess& coordinator, std::optional<ChildProcess>& agent, DurationNs shutdown_timeout) {
  const RealClock clock;
  const int signals_before = StopSignals();
  coordinator.Signal(SIGTERM);
  const TimeNs deadline = clock.Now() + shutdown_timeout + kDrainMargin;
  std::optional<int> code;
  const char* killed = nullptr;  // why
  while (!(code = coordinator.Wait(100 * kMillisecond)).has_value()) {
    if (clock.Now() > deadline) killed = "it had not ended in time";
    if (StopSignals() > std::max(signals_before, 1)) killed = "a second signal came";
    if (killed != nullptr) coordinator.Signal(SIGKILL);
  }
  // What it says of itself needs no words of ours.
  if (killed != nullptr) {
    std::fprintf(stderr, "shoal: the coordinator was killed: %s\n", killed);
  } else if (*code > 128) {
    std::fprintf(stderr, "shoal: the coordinator died of signal %d while it ended\n", *code - 128);
  }
  if (agent.has_value()) {
    agent->Signal(SIGTERM);
    if (!agent->Wait(kAgentGrace).has_value()) {
      agent->Signal(SIGKILL);
      agent->Wait(-1);
    }
  }
  return *code;
}

}  // namespace

int RunServe(const ServeOptions& options) {
  const std::atomic<bool>& stop = InstallStopFlag();
  // Read, and for this verb: a worker would not know its keys.
  unsetenv("SHOAL_CONFIG");
  int ready_fd = -1;
  auto coordinator = StartCoordinator(options, &ready_fd);
  if (!coordinator.ok()) {
    std::fprintf(stderr, "shoal: %s\n", std::string(coordinator.status().message()).c_str());
    return 1;
  }
  const std::string address = ReadAddress(ready_fd, stop);
  close(ready_fd);
  std::optional<ChildProcess> agent;
  if (!address.empty() && options.workers == "local") {
    auto started = StartAgent(options, address);
    if (started.ok()) {
      agent.emplace(std::move(*started));
    } else {
      std::fprintf(stderr, "shoal: %s\n", std::string(started.status().message()).c_str());
    }
  }
  const bool complete = agent.has_value() || options.workers == "external";
  if (!address.empty() && complete) WaitForNews(*coordinator, agent, stop);
  if (!stop.load() && agent.has_value() && agent->Wait(0).has_value()) {
    std::fprintf(stderr, "shoal: the local agent ended with %d; shutting down\n", *agent->Wait(0));
    EndBoth(*coordinator, agent, 0);
    return 1;
  }
  const int code = EndBoth(*coordinator, agent, static_cast<DurationNs>(options.shutdown_timeout * kSecond));
  return address.empty() || complete ? code : 1;
}

}  // namespace shoal::cli
