// What coordinator and agents tell each other besides plans. Plain data; wire.h turns it into protobuf messages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/plan/plan_check.h"
#include "common/plan/stale.h"
#include "common/plan/step_plan.h"

namespace shoal::plan {

using AgentId = std::string;  // random, made by the agent at its start

// A place for one rank.
struct DeviceSlot {
  std::string kind;          // "cpu" | "null" | "cuda"
  int32_t threads = 0;       // compute threads of the rank on this slot; cuda: multiprocessors
  int64_t memory_bytes = 0;  // that weights and KV may take, its share of the host
};

// Whether an agent's ranks shall go to others, or have gone. Never goes back while its process lives.
enum class DrainState : uint8_t { kNone, kDraining, kDrained };

struct AgentInfo {
  AgentId id;
  uint64_t incarnation = 0;  // of the agent process
  std::string address;       // "127.0.0.1:41234": where its gRPC endpoint listens
  std::string hostname;
  std::string boot_id;   // shared memory reaches agents with the same one
  std::string build_id;  // must equal the coordinator's
  int32_t pid = 0;
  std::vector<DeviceSlot> slots;
  uint64_t highest_epoch = 0;            // it ever saw
  std::vector<int32_t> held_ranks;       // weights it still owns, of `held_model`
  std::string held_model;                // revision + layout key
  DrainState drain = DrainState::kNone;  // as a coordinator told it
};

// kConnecting: has published its address, where its transport needs one, and connects as soon as it has those of
// others.
enum class RankState : uint8_t { kStarting, kLoading, kConnecting, kReady, kRunning, kDead };
std::string_view RankStateName(RankState s);

struct RankStatus {
  int32_t rank = 0;
  int32_t pid = 0;
  RankState state = RankState::kStarting;
  uint64_t step = 0;      // last finished
  uint64_t progress = 0;  // operations and tiles; stands still <=> stuck
  std::string operation;  // what it is doing or waiting for
  static constexpr int32_t kAgent = -1;
  std::optional<int32_t> waiting_for;  // rank, or kAgent (which takes no answers); since this operation began
  int64_t resident_bytes = 0;
  uint64_t decode_steps = 0;                                // steps with at least one decode row
  uint64_t decode_steps_planned = 0;                        // of those: the next plan had arrived before the step ended
  std::vector<std::pair<std::string, int64_t>> comm_bytes;  // sent, per transport; all transports
};

struct Heartbeat {
  AgentId agent;
  uint64_t incarnation = 0;
  uint64_t sequence = 0;
  uint64_t epoch = 0;
  std::vector<RankStatus> ranks;
  StaleCounts stale{};  // since the agent started; what was refused there and by its ranks
  DrainState drain = DrainState::kNone;
};

// Runtime choices that ranks must share. Part of the numerics id.
struct EngineOptions {
  std::string device = "cpu";          // op table: "cpu", "cuda", "ref", "null", "cpu-avx2", ...
  std::string compute_dtype = "auto";  // "auto" | "f32"
  std::string kv_dtype = "auto";       // "auto" (f16; f32 when compute is f32; cuda: bf16) | "f32" | "f16" | "bf16"
  std::string load_format = "auto";    // "auto" | "dummy"
  uint64_t dummy_seed = 0;
  // "auto" | "shm" | "gloo" | "nccl". The coordinator decides what "auto" is: nccl between ranks on CUDA, else shm
  // inside one host and gloo between hosts. Agents never see it but from tests, and take it for shm. Not part of the
  // numerics id: all transports give the same bits.
  std::string transport = "auto";
  int32_t block_size = 16;  // tokens per KV block
  std::string quantization =
      "auto";  // "auto" (as stored) | "fp8" | "int8" | "int4": matrices of plain types, while they load
  // "invariant": a request's bytes depend on it alone. "fast", on CUDA: large products go to cuBLASLt, whose choice of
  // algorithm, and so the bits, depend on the batch; other backends have one mode, and it is invariant.
  std::string numerics = "invariant";
  // How the tensor ranks of nccl sum up: "auto" | "nccl" | "one-shot" (worker/comm/all_reduce.h). The same bits.
  std::string all_reduce = "auto";
};

struct RankAssignment {
  int32_t rank = 0;
  AgentId agent;
  int32_t slot = 0;
};

struct JoinGroup {
  uint64_t epoch = 0;
  uint64_t coordinator = 0;  // incarnation
  std::string model;         // path, as the agent shall open it
  std::string revision;      // ModelFiles::revision that the coordinator saw; must agree
  EngineOptions engine;
  int32_t tp = 1, pp = 1;
  uint64_t shard_hash = 0;            // ShardPlan::Hash()
  std::vector<RankAssignment> ranks;  // of the whole group
  std::string comm_token;             // random; names the group's shared segments
  MirrorLimits limits;                // blocks = 0: still to be decided
};

struct JoinReply {
  std::string numerics_id;  // all agents must answer the same
  // Of its ranks, what the coordinator needs to size the cache.
  struct Rank {
    int32_t rank = 0;
    int64_t weight_bytes = 0;
    int64_t read_bytes = 0;  // that loading will read; 0 when the weights are still held
    int64_t kv_bytes_per_block = 0;
    int64_t memory_bytes = 0;  // for weights and KV together
  };
  std::vector<Rank> ranks;
};

struct LoadModel {
  uint64_t epoch = 0;
  MirrorLimits limits;  // final
};

// What a rank publishes so that others can connect to it; opaque to everybody but ranks of its transport.
inline constexpr size_t kMaxAddressBytes = 64 * 1024;
struct RankAddress {
  int32_t rank = 0;
  std::string bytes;
};

// Streamed while loading; the last one has `done`.
struct LoadProgress {
  AgentId agent;
  int64_t bytes_done = 0, bytes_total = 0;
  bool done = false;
  bool reused = false;     // weights were still held: nothing was read
  int64_t bytes_read = 0;  // counted at the reader
  // With `done`: the KV cache of each rank of this agent.
  struct Cache {
    int32_t rank = 0;
    uint64_t id = 0;  // of this memory, random: the same id again means that what was written there still is
    bool operator==(const Cache&) const = default;
  };
  std::vector<Cache> caches;
  // Of all ranks of the agent, once, where the transport needs them. The load goes on after ConnectRanks.
  std::vector<RankAddress> addresses;
};

// The addresses of all ranks of the group, ascending.
struct ConnectRanks {
  uint64_t epoch = 0;
  uint64_t coordinator = 0;  // incarnation
  std::vector<RankAddress> ranks;
};

// The exit code of a rank that ends because the transport has lost one of the others: not its own fault, nor that of
// the step.
inline constexpr int kLostPeerExit = 4;

// A rank that is gone, or alive and of no use any more; from its agent, at once.
struct RankExit {
  int32_t rank = 0;
  int32_t pid = 0;
  uint64_t epoch = 0;
  // "killed by signal 9", "killed by signal 9: out of memory" (the kernel did it), "stopped by signal 19",
  // "exited with 1: <last line of its log>", "stuck in attention at step 7"
  std::string cause;
};

}  // namespace shoal::plan
