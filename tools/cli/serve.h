// `shoal serve`: a small launcher that starts the coordinator and (unless the workers are external) a local agent as
// siblings, and ends both together. It never touches gRPC, so that starting processes stays safe.
#pragma once

#include "tools/cli/options.h"

namespace shoal::cli {

// The exit code of the program. SIGINT and SIGTERM: the coordinator drains, then the agent ends; a second one kills
// both.
int RunServe(const ServeOptions& options);

// `shoal coordinator`, started by the launcher: serves, shows progress on stdout, writes its control address to
// ready_fd. It and the worker end with the process `launcher`, their parent; 0: with none.
int RunCoordinatorVerb(const ServeOptions& options, int ready_fd, int launcher);

int RunWorker(const WorkerOptions& options, int launcher);

}  // namespace shoal::cli
