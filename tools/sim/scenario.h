// What happens in one run of the simulation, all of it decided by a seed: the cluster, its options and times, the
// requests, and the faults. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/sim/virtual_cluster.h"

namespace shoal::sim {

enum class FaultKind : uint8_t {
  kKillRank,           // SIGKILL, SIGTERM: nobody's fault
  kStopRank,           // SIGSTOP, seen by its agent
  kCrashRank,          // SIGSEGV: the step may be to blame
  kErrorAnswer,        // a rank refuses a plan
  kKillAgent,          // the process; another one comes later, with the same id or a new one
  kLoseHost,           // the same, and nobody says so
  kFreezeAgent,        // the process stands still, its ranks do not
  kFreezeHost,         // all of it does
  kCut,                // no message either way
  kCutToAgent,         // what agents say still arrives
  kCutToCoordinator,   // what they are told still arrives
  kReset,              // connections break, and are made anew
  kRefuseJoin,         // out of memory, for a while; and a rank is killed, so that somebody asks
  kRefuseLoad,         // likewise
  kFreezeCoordinator,  // events and timer come late, in either order
  kCrashCoordinator,   // a new one comes later, which may have lost the epochs that were stored
  kGhosts,             // messages come again, of former epochs and incarnations too
  kSlowNetwork,        // 50 times
  kDisconnect,         // clients go away
  kShutdown,           // always the last
  // Drawn after all others:
  kDrain,           // an agent gives its ranks to others; later it comes back, whatever became of that
  kNoMemory,        // a step fails for want of it, and for a while its agent can load nothing
  kClockJump,       // all processes stand still, and find that it is later than they thought
  kRepeatAnswers,   // every answer to a plan comes twice
  kOtherStates,     // a rank holds other hidden states than its peers; its tokens are right
  kComputeWrongly,  // all ranks alike: only the canary can tell
  kCrashAtWrite,    // the coordinator ends at a write or sync of its journal, soon
};
inline constexpr int kFaultKinds = 27;
std::string_view FaultName(FaultKind kind);

struct Fault {
  FaultKind kind;
  TimeNs at;  // since the beginning, or since the first group was ready; see `cold`
  DurationNs lasts;
  uint64_t pick;  // decides who is hit
};

struct Load {
  TimeNs at;
  core::GenerateRequest request;
  DurationNs cancelled_after = 0;      // by the client; 0: never
  std::vector<int32_t> stop_string{};  // the text side ends the answer when these tokens come
  int key = 0;                         // that the client brings; 0: none
  bool insists = true;                 // with a key: asks until it has an answer
};

struct Scenario {
  uint64_t seed = 0;
  core::CoreOptions options;
  ClusterTimes times;
  std::vector<AgentSpec> agents;  // spares last
  std::vector<Load> load;
  std::vector<Fault> faults;  // by time
  bool cold = false;          // faults begin before there is a group
  bool small_cache = false;   // so that requests are preempted
  bool keyed = false;         // some requests bring keys
  int32_t not_finite = -1, deadly = -1;
};

Scenario MakeScenario(uint64_t seed);
std::string Describe(const Scenario& scenario);

}  // namespace shoal::sim
