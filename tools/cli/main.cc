// Tested by tests/e2e/serve_test.py
// The `shoal` program: one binary, several verbs.
#include <cstdio>
#include <string>

#include "common/base/build_id.h"
#include "tools/cli/client_verbs.h"
#include "tools/cli/inspect.h"
#include "tools/cli/options.h"
#include "tools/cli/serve.h"
#include "tools/cli/version.h"
#include "worker/device/cuda_plugin.h"
#include "worker/maker/process.h"
#include "worker/rank/process.h"

namespace shoal::cli {
namespace {

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "shoal: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Run(const CommandLine& line) {
  switch (line.verb) {
    case Verb::kServe:
      return RunServe(line.serve);
    case Verb::kCoordinator:
      return RunCoordinatorVerb(line.serve,
                                {line.launcher, line.ready_fd, line.private_state, line.adopts, line.after_crash});
    case Verb::kWorker:
      return RunWorker(line.worker, {line.launcher, line.ready_fd, false, false, false});
    case Verb::kRank:
      return rank::RankExitCode(rank::RunRankProcess(line.reader));  // it has said what went wrong
    case Verb::kMaker:
      return maker::RunMakerProcess().ok() ? 0 : 1;  // it has said what went wrong
    case Verb::kInspect:
      return Report(RunInspect(line.inspect.model, line.inspect.tensor_parallel_size,
                               line.inspect.pipeline_parallel_size, line.inspect.json, stdout));
    case Verb::kChat:
      return RunChat(line.client);
    case Verb::kStatus:
      return RunStatus(line.client);
    case Verb::kDrain:
      return RunDrain(line.client);
    case Verb::kVersion:
      std::fputs(VersionText(BuildId(), device::CudaPluginPath()).c_str(), stdout);
      return 0;
    case Verb::kHelp:
      std::fputs(line.help.c_str(), stdout);
      return 0;
  }
  return 1;
}

}  // namespace
}  // namespace shoal::cli

int main(int argc, char** argv) {
  const auto line = shoal::cli::ParseCommandLine(argc, argv);
  if (!line.ok()) {
    std::fprintf(stderr, "shoal: %s\n", std::string(line.status().message()).c_str());
    return 2;
  }
  return shoal::cli::Run(*line);
}
