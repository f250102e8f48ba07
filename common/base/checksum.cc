// Tested by: tests/base/base_test.cc
#include "common/base/checksum.h"

#include <cstring>

namespace shoal {
namespace {

// Odd, with well spread bits: the fractional part of the golden ratio.
constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;

// One to one in `hash` for every `word`, and in `word` for every `hash`: no single changed word goes unseen. The high
// bits, which a product moves nowhere, come down, or a bit of the next word could take back what one of them did.
uint64_t Mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * kOdd;
  return hash ^ hash >> 32;
}

uint64_t Word(const std::byte* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

}  // namespace

uint64_t Checksum64(std::span<const std::byte> bytes, uint64_t seed) {
  // Four lanes, so that the multiplications overlap.
  uint64_t lanes[4] = {seed, seed + 1, seed + 2, seed + 3};
  size_t at = 0;
  for (; at + sizeof(lanes) <= bytes.size(); at += sizeof(lanes)) {
    for (size_t i = 0; i < 4; ++i) lanes[i] = Mix(lanes[i], Word(&bytes[at + i * sizeof(uint64_t)]));
  }
  uint64_t hash = Mix(seed, bytes.size());
  for (const uint64_t lane : lanes) hash = Mix(hash, lane);
  for (; at < bytes.size(); ++at) hash = Mix(hash, static_cast<uint64_t>(bytes[at]));
  return Mix(hash, 0);
}

}  // namespace shoal
