// SIGINT and SIGTERM as a flag, for verbs that run until told to stop.
#pragma once

#include <atomic>

namespace shoal::cli {

// Set by SIGINT and SIGTERM from now on, and by one that came while they were blocked; they no longer are. SIGPIPE is
// ignored, and so is SIGXFSZ: both are errors of a write. Call once, before threads start.
const std::atomic<bool>& InstallStopFlag();
// How many of them came; a second one means "at once".
int StopSignals();

// The process gets SIGTERM when its parent dies; false when it is dead already. `parent`: its pid, from itself: who has
// an unknown parent cannot tell one that is the first process of a container from an init that adopted it.
bool DieWithParent(int parent);

}  // namespace shoal::cli
