// Many runs in several processes, so that an aborted one (a broken invariant) costs nothing but itself. Call it from a
// program with one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tools/sim/run.h"

namespace shoal::sim {

struct SeedRange {
  uint64_t from = 1, to = 0;  // both included
};

// Runs every seed of the range once, in `jobs` processes; every `twice_every`th one twice (0: none), to see that the
// hashes agree. `done` gets each result, in the order in which they come; a run that aborted has its own problem, and
// nothing but that. `body` is what a run is: RunSeed, but for tests. False: processes could not be started.
bool RunSeeds(const SeedRange& range, int jobs, uint64_t twice_every, const std::function<RunResult(uint64_t)>& body,
              const std::function<void(const RunResult&)>& done);

// One line: the seed, how to repeat it, and what was wrong first.
std::string FailureLine(const RunResult& result);

}  // namespace shoal::sim
