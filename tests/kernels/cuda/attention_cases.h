// What attention through an op table has to hold, on the host and on a device: shapes, and checks of a Backend, which
// is made of (shape, {tokens, sequences, context, rows}) and attends to parts of sequences.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::cuda {

struct AttentionShape {
  std::vector<int32_t> q_to_kv;
  int kv_heads, head_dim, block_size;
  int q_heads() const { return static_cast<int>(q_to_kv.size()); }
  size_t row() const { return q_to_kv.size() * static_cast<size_t>(head_dim); }
};

// The tokens [begin, end) of a sequence whose contents are numbered `id`.
struct AttentionPart {
  int id, begin, end;
};

inline const AttentionShape kUneven = {{1, 1, 1, 2, 2}, 4, 64, 16};  // kv heads 0 and 3 are not touched
inline const AttentionShape kWideGroup = {{0, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 128, 32};

// Decode and prefill side by side, contexts of several splits, then other batches in the same plan.
template <typename Backend>
void ExpectAttentionIsTheReferences() {
  Backend uneven(kUneven, {120, 6, 1600});
  uneven.ExpectNear({{1, 1500, 1501}, {2, 0, 1}, {3, 500, 560}, {4, 255, 256}, {5, 256, 258}});
  uneven.ExpectNear({{6, 0, 70}});
  uneven.ExpectNear({{7, 40, 41}, {8, 300, 301}, {9, 511, 515}});
  Backend group(kWideGroup, {40, 4, 700});
  group.ExpectNear({{1, 600, 601}, {2, 250, 270}, {3, 0, 3}});
  Backend large({{0, 0, 1}, 2, 256, 64}, {20, 2, 600});
  large.ExpectNear({{1, 520, 521}, {2, 250, 262}});
}

// `context`: of the longest sequence.
template <typename Backend>
void ExpectADecodingShapeGivesTheSameBits(int context) {
  const std::vector<AttentionPart> parts = {{1, context, context + 1}, {2, 0, 1}, {3, 300, 301}};
  Backend mixed(kUneven, {64, 8, context + 324}), decoding(kUneven, {4, 4, context + 324, 1});
  ops::ExpectSameBits(mixed.Attend(parts), decoding.Attend(parts));
}

// A batch that fills a bucket in part: rows that are no sequence's are left alone.
template <typename Backend>
void ExpectPaddingIsNotWritten() {
  Backend backend(kUneven, {8, 8, 512, 1});
  const std::vector<AttentionPart> parts = {{1, 300, 301}, {2, 20, 21}};
  const auto padded = backend.Attend(parts, 1, 6);
  const size_t rows = 2 * kUneven.row();
  ops::ExpectSameBits(backend.Attend(parts).data(), padded.data(), rows);
  ASSERT_EQ(padded.size(), 4 * rows);
  const auto is_nan = [](float x) { return std::isnan(x); };
  EXPECT_TRUE(std::all_of(padded.begin() + static_cast<int64_t>(rows), padded.end(), is_nan));
  const auto nothing = backend.Attend(std::vector<AttentionPart>{}, 1, 8);
  EXPECT_TRUE(std::all_of(nothing.begin(), nothing.end(), is_nan));
}

}  // namespace shoal::cuda
