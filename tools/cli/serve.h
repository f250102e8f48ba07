// `shoal serve`: a small launcher that starts the coordinator and (unless the workers are external) a local agent as
// siblings, keeps both alive, and ends both together. It never touches gRPC, so that starting processes stays safe.
#pragma once

#include "tools/cli/options.h"

namespace shoal::cli {

// The exit code of the program. SIGINT and SIGTERM: the coordinator drains, then the agent ends; a second one kills
// both.
int RunServe(const ServeOptions& options);

// How a child of the launcher is tied to it.
struct LaunchedBy {
  int launcher = 0;            // its parent, with which it ends; 0: none
  int ready_fd = -1;           // for lines to it; -1: none
  bool private_state = false;  // the state directory is removed when the launcher has died
  bool adopts = false;         // there was a coordinator before this one
  bool after_crash = false;    // the coordinator before this one died of itself
};

// `shoal coordinator`: serves and shows progress on stdout. Tells "listening HOST:PORT HTTP_PORT" once agents and
// clients may connect, and "ready" once the first group is up.
int RunCoordinatorVerb(const ServeOptions& options, const LaunchedBy& by);

// Tells "ready" once it has registered.
int RunWorker(const WorkerOptions& options, const LaunchedBy& by);

}  // namespace shoal::cli
