// A page of shared memory between a rank and its agent: what the agent reads to know that the rank is alive, and how it
// ends the rank's waits. Plain atomics, so that a killed rank leaves nothing locked.
#pragma once

#include <atomic>
#include <cstdint>

#include "worker/comm/collective.h"
#include "worker/comm/wait_note.h"

namespace shoal::rank {

struct alignas(64) ControlPage {
  static constexpr uint64_t kMagic = 0x53484f414c435035;  // "SHOALCP5"
  uint64_t magic = kMagic;

  // Written by the agent.
  std::atomic<uint32_t> abort{0};  // not 0: every wait returns Aborted
  std::atomic<uint32_t> stop{0};   // not 0: the engine ends after the plan it is executing

  // Written by the rank.
  alignas(64) std::atomic<uint64_t> progress{0};
  std::atomic<uint64_t> step{0};       // last finished
  std::atomic<uint32_t> state{0};      // plan::RankState
  std::atomic<uint32_t> operation{0};  // graph::Operation
  // For whom it waits, since this operation began: `progress` stands still meanwhile.
  comm::WaitNote waiting;
  std::atomic<uint64_t> decode_steps{0}, decode_steps_planned{0};
  std::atomic<uint32_t> device_failed{0};  // not 0: its device, under it, as from an illegal access
  std::atomic<uint32_t> refused{0};        // not 0: it ended before it was ready, and another try would end alike
  std::atomic<uint64_t> stale_records{0};  // plans of another epoch or coordinator in the ring, passed over
  struct SentBytes {
    std::atomic<int64_t> tensor{0}, activation{0}, token{0};
  };
  SentBytes sent[comm::kTransportNames.size()] = {};  // as comm::CommStats
};

}  // namespace shoal::rank
