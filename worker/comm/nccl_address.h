// Which communicators a group has, and what a rank publishes so that others can join those that it begins.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"
#include "worker/comm/nccl_api.h"
#include "worker/comm/peer_memory.h"

namespace shoal::comm {

// One for each channel. Ranks make those that they are in in this order, so that none waits for another in a circle.
enum class NcclKind : uint8_t { kTensor, kStage, kToken };
inline constexpr std::array<std::string_view, 3> kNcclKindNames = {"tensor", "stage", "token"};

struct NcclMembers {
  NcclKind kind;
  std::vector<int> ranks;  // ascending, at least two; the first one makes the id
  int index = 0;           // of the rank that asks

  int peer(int rank) const;  // where `rank` is in `ranks`; -1: nowhere
};
//   tensor  the ranks of a stage
//   stage   the ranks of one tensor index, over all stages
//   token   the sampling rank and those of stage 0
// Those of one rank are no communicator.
std::vector<NcclMembers> NcclMembersOf(const GroupShape& shape, int rank);

struct NcclAddress {
  uint64_t generation = 0;  // epoch
  uint64_t shape = 0;       // ShapeHash
  int rank = 0;
  std::string version;  // of NCCL: all ranks need the same
  std::map<NcclKind, NcclId> ids;
  std::optional<PeerOffer> peer;  // none: this rank shares no memory with others

  bool operator==(const NcclAddress&) const = default;
};

std::string EncodeAddress(const NcclAddress& address);
// Comes from another process: InvalidArgument for anything that EncodeAddress would not have made.
absl::StatusOr<NcclAddress> DecodeNcclAddress(std::string_view text, int ranks);

}  // namespace shoal::comm
