#include "kernels/cuda/checksum.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

std::vector<uint64_t> Sums(const std::vector<uint32_t>& words) {
  std::vector<uint64_t> sums(ops::kChecksumParts, ~uint64_t{0});
  EXPECT_TRUE(Enqueue(nullptr, {words.data(), static_cast<int64_t>(words.size() * 4), sums.data()}).ok());
  return sums;
}

std::vector<uint32_t> Words(size_t count) {
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; ++i) words[i] = static_cast<uint32_t>(i * i * 2654435761u);
  return words;
}

TEST(Checksum, PartsTogetherHaveEveryWordOnce) {
  for (const size_t count : {0u, 1u, 255u, 257u, 8192u, 8193u, 50001u}) {
    const std::vector<uint32_t> words = Words(count);
    const std::vector<uint64_t> sums = Sums(words);
    uint64_t expected = 0;
    for (size_t i = 0; i < count; ++i) expected += ChecksumMix(words[i], static_cast<int64_t>(i));
    EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), uint64_t{0}), expected) << count;
    EXPECT_EQ(InEveryOrder<uint64_t>([&] { return Sums(words); }), sums);
  }
}

TEST(Checksum, ABitOrTwoWordsThatChangePlacesShow) {
  const std::vector<uint32_t> words = Words(20000);
  const std::vector<uint64_t> sums = Sums(words);
  for (const size_t at : {0u, 300u, 8191u, 19999u}) {
    std::vector<uint32_t> other = words;
    other[at] ^= 1u << 31;
    EXPECT_NE(Sums(other), sums) << at;
    other = words;
    std::swap(other[at], other[(at + 8192) % words.size()]);  // in the same part
    EXPECT_NE(Sums(other), sums) << at;
  }
}

}  // namespace
}  // namespace shoal::cuda
