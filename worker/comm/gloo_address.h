// What a rank publishes so that others can connect to it. Internal to worker/comm/gloo.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"

namespace shoal::comm {

struct GlooAddress {
  uint64_t generation = 0;
  uint64_t shape = 0;  // ShapeHash
  int rank = 0;
  uint64_t nonce = 0;             // at random: who knows it has read this
  std::string host;               // numeric
  std::map<int, uint16_t> ports;  // one for each peer

  bool operator==(const GlooAddress&) const = default;
};

std::string EncodeAddress(const GlooAddress& address);
// `ranks` of the group. Comes from another process: InvalidArgument for anything that EncodeAddress would not have
// made.
absl::StatusOr<GlooAddress> DecodeAddress(std::string_view text, int ranks);

// The numeric form of a name or address of this machine, the first that can be a TCP endpoint. Resolves names, so it
// may take seconds.
absl::StatusOr<std::string> NumericHost(const std::string& host);

}  // namespace shoal::comm
