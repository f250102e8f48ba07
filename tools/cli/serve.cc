// Tested by: tests/e2e/serve_test.py, tests/e2e/restart_test.py
#include "tools/cli/serve.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "tools/cli/device_choice.h"
#include "tools/cli/launcher.h"
#include "tools/cli/signals.h"

namespace shoal::cli {
namespace {

constexpr char kSelf[] = "/proc/self/exe";
constexpr int kConfigFd = 3, kReadyFd = 4;  // in the coordinator; an agent has the latter only

// A memory file with the options; not the command line, which anybody on the host can read.
absl::StatusOr<int> ConfigFile(const ServeOptions& options) {
  const std::string yaml = ToYaml(options);
  const int fd = memfd_create("shoal-config", MFD_CLOEXEC);
  if (fd < 0 || write(fd, yaml.data(), yaml.size()) != static_cast<ssize_t>(yaml.size())) {
    if (fd >= 0) close(fd);
    return absl::InternalError("cannot write the configuration to a memory file");
  }
  return fd;
}

absl::StatusOr<ChildProcess> StartCoordinator(const ServeOptions& options, bool private_state,
                                              const StartContext& context) {
  SHOAL_ASSIGN_OR_RETURN(const int config, ConfigFile(options));
  // CLI values: "/proc/self/fd/3" opens the memory file anew, at its start.
  std::vector<std::string> argv = {
      kSelf,        "coordinator",          "--config",   absl::StrCat("/proc/self/fd/", kConfigFd),
      "--ready-fd", absl::StrCat(kReadyFd), "--launcher", absl::StrCat(getpid())};
  if (private_state) argv.push_back("--private-state");
  if (context.again) argv.push_back("--adopt");
  if (context.after_crash) argv.push_back("--after-crash");
  auto child = ChildProcess::Start(argv, {{config, kConfigFd}, {context.ready_fd, kReadyFd}});
  close(config);
  return child;
}

absl::StatusOr<ChildProcess> StartAgent(const ServeOptions& o, const StartContext& context) {
  // Of tp * pp ranks, this host runs its share; the agents of other hosts bring the rest.
  const int ranks = o.tensor_parallel_size * o.pipeline_parallel_size;
  std::vector<std::string> argv = {kSelf,
                                   "worker",
                                   "--launcher",
                                   absl::StrCat(getpid()),
                                   "--ready-fd",
                                   absl::StrCat(kReadyFd),
                                   "--master-addr",
                                   o.master_addr,
                                   "--master-port",
                                   absl::StrCat(o.master_port),
                                   "--slots",
                                   absl::StrCat((ranks + o.nnodes - 1) / o.nnodes),
                                   "--threads",
                                   absl::StrCat(o.threads),
                                   "--device",
                                   o.device,
                                   "--gpu-memory-utilization",
                                   absl::StrCat(o.gpu_memory_utilization)};
  argv.insert(argv.end(), {"--orphan-timeout", absl::StrCat(o.orphan_timeout)});
  if (!o.device_ids.empty()) argv.insert(argv.end(), {"--device-ids", absl::StrJoin(o.device_ids, ",")});
  if (o.insecure) argv.push_back("--insecure");
  return ChildProcess::Start(argv, {{context.ready_fd, kReadyFd}});
}

// A state directory for those who name none: it outlives the coordinator and goes with the launcher. When there is no
// place for one, requests with an Idempotency-Key are refused, and all else works.
class PrivateState {
 public:
  PrivateState() {
    std::error_code ec;
    std::string path = (std::filesystem::temp_directory_path(ec) / "shoal-XXXXXX").string();
    if (!ec && mkdtemp(path.data()) != nullptr) path_ = path;
    if (path_.empty()) std::fprintf(stderr, "shoal: no place for a state directory: give one with --state-dir\n");
  }
  ~PrivateState() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  PrivateState(const PrivateState&) = delete;
  PrivateState& operator=(const PrivateState&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// "listening HOST:PORT HTTP_PORT": where a coordinator is to be found.
void AdoptPorts(const std::string& line, ServeOptions* options) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || words[0] != "listening") return;
  const size_t colon = words[1].rfind(':');
  int control = 0, http = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(words[1].substr(colon + 1), &control) ||
      !absl::SimpleAtoi(words[2], &http)) {
    return;
  }
  options->master_port = control;
  options->port = http;
}

// Once, for coordinator and agent. Devices of agents elsewhere are theirs to find.
absl::Status SettleDevice(const std::atomic<bool>& stop, ServeOptions* options) {
  if (options->workers == "external" && options->device != "auto") return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice(options->device, maker::Makers(kSelf, &stop)));
  if (!choice.note.empty()) std::fprintf(stderr, "shoal: %s\n", choice.note.c_str());
  options->device = choice.device;
  return absl::OkStatus();
}

}  // namespace

int RunServe(const ServeOptions& given) {
  const std::atomic<bool>& stop = InstallStopFlag();
  // Read, and for this verb: a worker would not know its keys.
  unsetenv("SHOAL_CONFIG");
  ServeOptions options = given;
  const absl::Status chosen = SettleDevice(stop, &options);
  if (!chosen.ok()) {
    std::fprintf(stderr, "shoal: %s\n", std::string(chosen.message()).c_str());
    return 1;
  }
  std::optional<PrivateState> state;
  if (options.state_dir.empty()) options.state_dir = state.emplace().path();

  LauncherPlan plan;
  plan.start_coordinator = [&](const StartContext& context) {
    return StartCoordinator(options, state.has_value(), context);
  };
  if (options.workers == "local") {
    plan.start_agent = [&](const StartContext& context) { return StartAgent(options, context); };
  }
  // Ports that it was free to choose are the ones that clients and agents know from then on.
  plan.on_line = [&](const std::string& line) { AdoptPorts(line, &options); };
  plan.shutdown_timeout = static_cast<DurationNs>(options.shutdown_timeout * kSecond);
  return Launcher(std::move(plan), &stop).Run();
}

}  // namespace shoal::cli
