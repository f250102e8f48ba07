#include "worker/comm/nccl_address.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shoal::comm {
namespace {

// First word: of another form of address there is nothing to be read.
constexpr std::string_view kForm = "nccl2";
constexpr std::string_view kPeer = "peer";
constexpr size_t kFixedWords = 5;

bool IsVersion(const std::string& text) {
  return !text.empty() && text.size() < 32 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// "tensor:00ff..."
bool ParseId(absl::string_view word, NcclAddress* out) {
  const std::vector<absl::string_view> parts = absl::StrSplit(word, ':');
  if (parts.size() != 2 || parts[1].size() != 2 * sizeof(NcclId) || !IsHex(parts[1])) return false;
  for (size_t k = 0; k < kNcclKindNames.size(); ++k) {
    if (parts[0] != absl::string_view(kNcclKindNames[k].data(), kNcclKindNames[k].size())) continue;
    const std::string bytes = absl::HexStringToBytes(parts[1]);
    NcclId id;
    std::memcpy(id.data(), bytes.data(), id.size());
    return out->ids.emplace(static_cast<NcclKind>(k), id).second;
  }
  return false;
}

std::string Hex(const ops::Accelerator::DeviceId& id) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(id.data()), id.size()));
}

// "peer:HOST:PORT:DEVICE:BYTES"
bool ParsePeer(absl::string_view word, NcclAddress* out) {
  const std::vector<absl::string_view> parts = absl::StrSplit(word, ':');
  PeerOffer offer;
  const bool sound =
      parts.size() == 5 && !out->peer.has_value() && !parts[1].empty() && parts[1].size() <= kMaxDescriptorHost &&
      std::all_of(parts[1].begin(), parts[1].end(),
                  [](char c) {
                    return c == '-' || IsHex({&c, 1});
                  }) &&
      parts[2].size() == DescriptorPort::kAddressBytes && IsHex(parts[2]) &&
      parts[3].size() == 2 * offer.device.size() && IsHex(parts[3]) && absl::SimpleAtoi(parts[4], &offer.bytes);
  if (!sound) return false;
  offer.host = std::string(parts[1]);
  offer.port = std::string(parts[2]);
  const std::string device = absl::HexStringToBytes(parts[3]);
  std::memcpy(offer.device.data(), device.data(), offer.device.size());
  out->peer = std::move(offer);
  return true;
}

}  // namespace

int NcclMembers::peer(int rank) const {
  const auto it = std::find(ranks.begin(), ranks.end(), rank);
  return it == ranks.end() ? -1 : static_cast<int>(it - ranks.begin());
}

std::vector<NcclMembers> NcclMembersOf(const GroupShape& shape, int rank) {
  const int stage = rank / shape.tp, index = rank % shape.tp, sampler = (shape.pp - 1) * shape.tp;
  NcclMembers tensor{NcclKind::kTensor, {}}, line{NcclKind::kStage, {}}, token{NcclKind::kToken, {}};
  for (int t = 0; t < shape.tp; ++t) tensor.ranks.push_back(stage * shape.tp + t);
  for (int s = 0; s < shape.pp; ++s) line.ranks.push_back(s * shape.tp + index);
  for (int t = 0; t < shape.tp; ++t) token.ranks.push_back(t);
  if (sampler != 0) token.ranks.push_back(sampler);
  std::vector<NcclMembers> all;
  for (NcclMembers* members : {&tensor, &line, &token}) {
    members->index = members->peer(rank);
    if (members->ranks.size() > 1 && members->index >= 0) all.push_back(std::move(*members));
  }
  return all;
}

std::string EncodeAddress(const NcclAddress& a) {
  std::string text = absl::StrCat(std::string(kForm), " ", a.generation, " ", a.shape, " ", a.rank, " ", a.version);
  for (const auto& [kind, id] : a.ids) {
    const absl::string_view bytes(reinterpret_cast<const char*>(id.data()), id.size());
    absl::StrAppend(&text, " ", std::string(kNcclKindNames[static_cast<size_t>(kind)]), ":",
                    absl::BytesToHexString(bytes));
  }
  if (a.peer.has_value()) {
    absl::StrAppend(&text, " ", std::string(kPeer), ":", a.peer->host, ":", a.peer->port, ":", Hex(a.peer->device), ":",
                    a.peer->bytes);
  }
  return text;
}

absl::StatusOr<NcclAddress> DecodeNcclAddress(std::string_view text, int ranks) {
  const absl::Status malformed = absl::InvalidArgumentError("the address of a rank is malformed");
  if (text.size() > kMaxAddressBytes) return malformed;
  const std::vector<std::string> words = absl::StrSplit(absl::string_view(text.data(), text.size()), ' ');
  if (words.size() < kFixedWords || words[0] != kForm) return malformed;
  NcclAddress out;
  if (!absl::SimpleAtoi(words[1], &out.generation) || !absl::SimpleAtoi(words[2], &out.shape) ||
      !absl::SimpleAtoi(words[3], &out.rank) || out.rank < 0 || out.rank >= ranks || !IsVersion(words[4])) {
    return malformed;
  }
  out.version = words[4];
  for (size_t i = kFixedWords; i < words.size(); ++i) {
    if (!(absl::StartsWith(words[i], absl::StrCat(std::string(kPeer), ":")) ? ParsePeer(words[i], &out)
                                                                            : ParseId(words[i], &out))) {
      return malformed;
    }
  }
  return out;
}

}  // namespace shoal::comm
