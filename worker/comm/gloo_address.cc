#include "worker/comm/gloo_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shoal::comm {
namespace {

// First word: of another form of address there is nothing to be read.
constexpr std::string_view kForm = "gloo1";
constexpr size_t kFixedWords = 6;

bool IsNumericHost(const std::string& host) {
  in6_addr bytes = {};
  return ::inet_pton(AF_INET, host.c_str(), &bytes) == 1 || ::inet_pton(AF_INET6, host.c_str(), &bytes) == 1;
}

// "3:41234"
bool ParsePort(absl::string_view word, int ranks, GlooAddress* out) {
  const std::vector<absl::string_view> parts = absl::StrSplit(word, ':');
  int peer = -1, port = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &peer) || !absl::SimpleAtoi(parts[1], &port)) return false;
  if (peer < 0 || peer >= ranks || port < 1 || port > std::numeric_limits<uint16_t>::max()) return false;
  return out->ports.emplace(peer, static_cast<uint16_t>(port)).second;
}

}  // namespace

std::string EncodeAddress(const GlooAddress& a) {
  std::string text =
      absl::StrCat(std::string(kForm), " ", a.generation, " ", a.shape, " ", a.rank, " ", a.nonce, " ", a.host);
  for (const auto& [peer, port] : a.ports) absl::StrAppend(&text, " ", peer, ":", port);
  return text;
}

absl::StatusOr<GlooAddress> DecodeAddress(std::string_view text, int ranks) {
  const absl::Status malformed = absl::InvalidArgumentError("the address of a rank is malformed");
  if (text.size() > kMaxAddressBytes) return malformed;
  const std::vector<std::string> words = absl::StrSplit(absl::string_view(text.data(), text.size()), ' ');
  if (words.size() < kFixedWords || words[0] != kForm) return malformed;
  GlooAddress out;
  if (!absl::SimpleAtoi(words[1], &out.generation) || !absl::SimpleAtoi(words[2], &out.shape) ||
      !absl::SimpleAtoi(words[3], &out.rank) || !absl::SimpleAtoi(words[4], &out.nonce)) {
    return malformed;
  }
  out.host = words[5];
  if (out.rank < 0 || out.rank >= ranks || !IsNumericHost(out.host)) return malformed;
  for (size_t i = kFixedWords; i < words.size(); ++i) {
    if (!ParsePort(words[i], ranks, &out)) return malformed;
  }
  return out;
}

absl::StatusOr<std::string> NumericHost(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for other ranks on ", host, ": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  char text[INET6_ADDRSTRLEN] = {};
  if (::getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for other ranks on ", host));
  }
  if (!IsNumericHost(text)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for other ranks on ", text, ": give an address that is the same on all hosts"));
  }
  return std::string(text);
}

}  // namespace shoal::comm
