// API keys. Immutable, thread-safe.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace shoal::http {

class ApiKeys {
 public:
  // Keeps SHA-256 digests, not the keys. No keys: every request passes.
  explicit ApiKeys(const std::vector<std::string>& keys);

  // `authorization`: the header's value, "Bearer KEY". Takes the same time for every key of a length.
  bool Allows(std::string_view authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  std::vector<Digest> digests_;
};

}  // namespace shoal::http
