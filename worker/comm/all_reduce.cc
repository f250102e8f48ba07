#include "worker/comm/all_reduce.h"

#include <algorithm>
#include <array>

#include "kernels/ops/all_reduce.h"

namespace shoal::comm {
namespace {

// All figures are estimates: nothing was measured yet. With links of 450 GB/s in each direction, a one-shot of n bytes
// on r ranks is on its way for (r - 1) n / 450 GB/s, a two-shot for 2 (r - 1) n / r / 450 GB/s and three operations
// more, at some 4 us each.
//   8 ranks, 512 KiB by NCCL: 8.2 us against 2.0 us and two operations more
constexpr size_t kNcclOneShotBytes = 512 << 10;
struct PeerLimit {
  int ranks;  // up to
  size_t bytes;
};
//   2 ranks: both ways receive the same; 1 MiB is what 32 blocks still fetch about as fast as the link goes
//   4 ranks, 512 KiB: 3.5 us against 1.7 us     8 ranks, 256 KiB: 4.1 us against 1.0 us
constexpr std::array<PeerLimit, 3> kPeerLimits = {{{2, 1 << 20}, {4, 512 << 10}, {8, 256 << 10}}};

static_assert(std::all_of(kPeerLimits.begin(), kPeerLimits.end(), [](const PeerLimit& l) {
  return l.ranks <= ops::kAllReduceMaxRanks && l.bytes <= ops::kAllReduceMaxBytes;
}));

}  // namespace

std::optional<AllReducePolicy> AllReducePolicyFromName(std::string_view name) {
  if (name == "auto") return AllReducePolicy::kAuto;
  if (name == "nccl") return AllReducePolicy::kNccl;
  if (name == "one-shot") return AllReducePolicy::kOneShot;
  return std::nullopt;
}

size_t PeerAllReduceBytes(int ranks) {
  for (const PeerLimit& limit : kPeerLimits) {
    if (ranks <= limit.ranks) return limit.bytes;
  }
  return 0;
}

size_t NcclOneShotBytes() { return kNcclOneShotBytes; }

AllReduceAlgorithm ChooseAllReduce(int ranks, size_t bytes, bool peers) {
  if (peers && bytes <= PeerAllReduceBytes(ranks)) return AllReduceAlgorithm::kPeer;
  return bytes <= kNcclOneShotBytes ? AllReduceAlgorithm::kOneShot : AllReduceAlgorithm::kTwoShot;
}

}  // namespace shoal::comm
