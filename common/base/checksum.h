// A fast 64-bit checksum that tells apart memory that should be the same. Not for keys or secrets: whoever wants to can
// make two inputs with the same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shoal {

// Depends on every bit and on the order; chained by passing the one before as `seed`. Little-endian words.
uint64_t Checksum64(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace shoal
