// SHA-256.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace shoal::http {

std::array<uint8_t, 32> Sha256(std::string_view text);

}  // namespace shoal::http
