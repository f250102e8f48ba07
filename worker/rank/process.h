// A rank as a process: `shoal rank`, started by its agent with inherited descriptors. Attaches to what the agent owns
// and runs the engine. Crash-only: it has nothing to clean up.
#pragma once

#include "absl/status/status.h"

namespace shoal::rank {

// Descriptors are inherited at these numbers, all of them (worker/agent/supervisor passes them); the setup record in
// the plan ring says the rest.
inline constexpr int kControlFd = 3;   // ControlPage, read-write
inline constexpr int kPlanRingFd = 4;  // ring of plans, shared by all ranks of the agent
inline constexpr int kResultRingFd = 5;
inline constexpr int kWeightsFd = 6;    // region, read-only; of the device that the setup record names, or the host's
inline constexpr int kKvFd = 7;         // the same
inline constexpr int kChannelsFd = 8;   // shm segment of the group
inline constexpr int kParentPidFd = 9;  // pidfd of the agent: the rank ends when it becomes readable

// `plan_reader`: this rank's reader slot in the plan ring. OK: told to stop. Unavailable: another rank is lost.
absl::Status RunRankProcess(int plan_reader);
// What the process ends with after that.
int RankExitCode(const absl::Status& status);

}  // namespace shoal::rank
