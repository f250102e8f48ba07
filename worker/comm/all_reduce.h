// Which way a sum over the tensor ranks of nccl takes: a pure function of what all of them know, so that all choose
// alike. The bits are the same on every way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace shoal::comm {

// As `--all-reduce` has it.
enum class AllReducePolicy : uint8_t {
  kAuto,     // over peer memory where the devices reach each other's, else NCCL
  kNccl,     // never over peer memory
  kOneShot,  // as kAuto, but where the devices do not reach each other's memory the group does not come up
};
// "auto", "nccl", "one-shot".
std::optional<AllReducePolicy> AllReducePolicyFromName(std::string_view name);

//              operations on the device           bytes that a device receives, of n on r ranks
//   kPeer      1: our kernel, over peer memory    (r - 1) n
//   kOneShot   2: NCCL's all-gather, sum_ranks    (r - 1) n
//   kTwoShot   4: exchange, sum_ranks, gather     2 (r - 1) n / r
enum class AllReduceAlgorithm : uint8_t { kPeer, kOneShot, kTwoShot };

// The size table. `peers`: there is peer memory.
AllReduceAlgorithm ChooseAllReduce(int ranks, size_t bytes, bool peers);

// The largest sum of so many ranks over peer memory; 0: there is none for so many.
size_t PeerAllReduceBytes(int ranks);
// The largest one-shot of NCCL's.
size_t NcclOneShotBytes();

}  // namespace shoal::comm
