// The coordinator's mind: one state machine, one thread, no locks, no I/O, no clock. effects = OnEvent(event, now).
// Membership, admission, scheduling and KV blocks are inside, so one harness drives them all in virtual time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/model/model_config.h"
#include "common/plan/control.h"
#include "coordinator/core/canary.h"
#include "coordinator/core/events.h"
#include "coordinator/core/layout.h"

namespace shoal::core {

struct CoreOptions {
  std::string model_path, revision, build_id;
  model::ModelConfig model;
  plan::EngineOptions engine;
  int32_t tp = 1, pp = 1;
  int32_t nnodes = 1;         // agents to wait for before the group forms
  int32_t max_model_len = 0;  // 0: what the model was trained for, less if the cache is smaller
  int32_t max_num_seqs = 64;
  int32_t max_num_batched_tokens = 512;
  int32_t max_queued_requests = 512;
  int32_t kv_blocks = 0;        // 0: as many as memory allows (kv_memory_bytes, or a share of what the slots report)
  int64_t kv_memory_bytes = 0;  // per rank; 0: decided from the slots' memory
  uint64_t incarnation = 0;     // of this coordinator process
  uint64_t stored_epoch = 0;    // epoch = max(stored, highest reported at Register) + 1
  DurationNs heartbeat_timeout = 3 * kSecond;
  DurationNs plan_deadline = 10 * kSecond;  // of plans that nobody gets on with
  bool adopts = false;                      // there was a coordinator before this one, and its agents may be alive
  // A coordinator that comes after another one, or finds agents that hold weights, waits so long since it met the first
  // agent, or the first of those, for those that hold the rest before others load them. Agents try to register at least
  // once a second.
  DurationNs adopt_timeout = 2 * kSecond;
  DurationNs canary_interval = 10 * kSecond;  // between two while idle; 0: there is no canary
  std::vector<KnownCanary> known_canaries{};  // what former coordinators learned, see CanaryLearned
  bool graphs = false;                        // ranks can record steps: plans of tokens alone name a bucket
  int32_t checksum_interval = 64;             // plans from one that asks for checksums to the next; 0: none asks
  // How long a lost group waits for the ranks that were asked for before it is formed with fewer; 0: for ever.
  DurationNs replace_timeout = 0;
};

// What the cluster looks like: /v1/cluster, `shoal status`, gauges.
struct ClusterState {
  enum class Phase : uint8_t { kWaitingForAgents, kJoining, kLoading, kReady, kDraining, kFailed } phase;
  std::string detail;  // what is being waited for, or why it failed
  uint64_t epoch = 0;
  std::string numerics_id;
  std::string transport;  // between the ranks of the present or last group; empty: none yet
  // The group has shown that it computes, since it was formed: a step of a client's request was answered, or the canary
  // was. A group that is formed after a wrong answer shows it by the canary, before anything else.
  bool proven = false;
  struct Rank {
    int32_t rank, tp_index, stage;
    plan::AgentId agent;
    std::string hostname;
    plan::RankStatus status;
    uint64_t answered = 0;    // last step
    DurationNs own_time = 0;  // of a step, lately, without waiting for others
    bool straggles = false;   // against its tensor peers
  };
  // kDraining: it shall have no ranks, and waits for another one to take them. kDrained: it has none, and gets none
  // until its process is started anew.
  enum class AgentState : uint8_t { kServing, kSpare, kSilent, kDraining, kDrained };
  struct Agent {
    plan::AgentInfo info;
    DurationNs heartbeat_age;
    AgentState state = AgentState::kSpare;
    std::string detail;  // while draining: what for
  };
  std::vector<Agent> agents;
  std::vector<Rank> ranks;
  Layout layout, asked;  // of the present group or attempt; that it should have
  int64_t load_bytes_done = 0, load_bytes_total = 0, load_bytes_read = 0;
  int32_t running = 0, waiting = 0;
  int32_t kv_blocks = 0, kv_blocks_free = 0, block_size = 0, max_model_len = 0;
  uint64_t steps = 0, preemptions = 0, prompt_tokens = 0, output_tokens = 0;
  uint64_t groups_formed = 0;
  uint64_t reforms = 0;            // groups that came back with another layout or numerics than the one before
  uint64_t answers = 0;            // of ranks to plans, accepted
  uint64_t resumed = 0;            // sequences that went on with the KV they had before their group was lost
  uint64_t recomputed_tokens = 0;  // whose KV had been there before: after preemptions and losses
  plan::StaleCounts stale{};       // what came to the core of an epoch that is over, or twice, and was dropped
  uint64_t poisoned = 0;           // requests that made ranks fail, and are not tried again
  uint64_t canary_passes = 0, canary_failures = 0;
  bool canary_runs = false;                  // not in `running`
  uint64_t checksums_agreed = 0;             // stages of plans whose tensor ranks held the same hidden states
  std::map<int32_t, uint64_t> mismatches{};  // by rank: how often it held others, as far as could be told
};

class Core {
 public:
  explicit Core(CoreOptions options);
  ~Core();

  // The effects of one event. `now` never goes backwards. Never fails: what is wrong with an event ends in an effect.
  std::vector<Effect> OnEvent(const Event& event, TimeNs now);

  ClusterState State(TimeNs now) const;

  // Every invariant between requests, sequences, blocks, plans in flight and membership; aborts with what is broken.
  void CheckInvariants() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal::core
