#include "coordinator/http/auth.h"

#include <openssl/crypto.h>

#include "absl/strings/match.h"
#include "coordinator/http/digest.h"

namespace shoal::http {

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(Sha256(key));
}

bool ApiKeys::Allows(std::string_view authorization) const {
  if (digests_.empty()) return true;
  constexpr std::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase({authorization.data(), authorization.size()}, {kScheme.data(), kScheme.size()})) {
    return false;
  }
  const Digest given = Sha256(authorization.substr(kScheme.size()));
  int matches = 0;
  for (const Digest& digest : digests_) {
    matches |= CRYPTO_memcmp(digest.data(), given.data(), digest.size()) == 0 ? 1 : 0;
  }
  return matches != 0;
}

}  // namespace shoal::http
