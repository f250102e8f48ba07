// One run: a scenario is carried out, faults stop, the cluster must come back, and the oracle judges. Same seed, same
// run. Independent runs may go on in parallel processes; a run itself is one thread.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "tools/sim/scenario.h"

namespace shoal::sim {

struct RunOptions {
  std::function<void(const std::string&)> trace;  // each line of the timeline
  std::function<void(VirtualCluster&)> prepare;   // before anything happens; for tests of the simulator
};

struct RunResult {
  uint64_t seed = 0, hash = 0, events = 0;
  int requests = 0;
  int answered = 0;                       // in full
  std::array<int, kFaultKinds> faults{};  // that really happened
  std::vector<std::string> problems;      // none expected
};

RunResult RunSeed(uint64_t seed, const RunOptions& options = {});
RunResult RunScenario(const Scenario& scenario, const RunOptions& options = {});

}  // namespace shoal::sim
