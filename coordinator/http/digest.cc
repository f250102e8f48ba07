// Tested by: tests/http/idempotency_test.cc
#include "coordinator/http/digest.h"

#include <openssl/evp.h>

#include "common/base/check.h"

namespace shoal::http {

std::array<uint8_t, 32> Sha256(std::string_view text) {
  std::array<uint8_t, 32> digest;
  unsigned int size = 0;
  SHOAL_CHECK(EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr) == 1);
  SHOAL_CHECK(size == digest.size());
  return digest;
}

}  // namespace shoal::http
