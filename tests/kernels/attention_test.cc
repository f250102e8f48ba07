#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/base/rng.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

struct Shape {
  std::vector<int32_t> q_to_kv;
  int kv_heads, head_dim, block_size;
};

// A cache with its own placement of the sequence's blocks. What was never written is NaN.
struct Cache {
  Cache(const Shape& s, DType dtype, int positions, uint64_t placement) : shape(s) {
    const int used = (positions + s.block_size - 1) / s.block_size, blocks = used + 3;
    const size_t bytes = RowBytes(dtype, static_cast<int64_t>(blocks) * s.kv_heads * s.block_size * s.head_dim);
    k = AllocateAligned(bytes);
    v = AllocateAligned(bytes);
    layer = {k.get(), v.get(), dtype, s.block_size, s.kv_heads, s.head_dim};
    std::vector<int32_t> free;
    for (int b = 0; b < blocks; ++b) free.push_back(b);
    for (int b = 0; b < used; ++b) {
      const size_t pick = RandomBits(placement, 9, static_cast<uint64_t>(b)) % free.size();
      table.push_back(free[pick]);
      free.erase(free.begin() + static_cast<std::ptrdiff_t>(pick));
    }
    const size_t row = static_cast<size_t>(s.kv_heads) * static_cast<size_t>(s.head_dim);
    const auto keys = RandomFloats(row * static_cast<size_t>(positions), 101);
    const auto values = RandomFloats(row * static_cast<size_t>(positions), 102);
    std::vector<int64_t> slots;
    for (int p = 0; p < positions; ++p) {
      slots.push_back(int64_t{table[static_cast<size_t>(p / s.block_size)]} * s.block_size + p % s.block_size);
    }
    const std::unique_ptr<Stream> stream = MakeCpuStream(1);
    RopeKvArgs args{};
    args.k = keys.data();
    args.v = values.data();
    args.kv_stride = static_cast<int64_t>(row);
    args.slots = slots.data();
    args.cache = layer;
    args.tokens = positions;
    EXPECT_TRUE(RefTable().rope_kv(*stream, args).ok());
  }

  Shape shape;
  AlignedBytes k, v;
  KvLayer layer;
  std::vector<int32_t> table;
};

// Attention of rows [begin, end) of one sequence whose row p has query q[p], in chunks of `chunk`.
std::vector<float> Attend(const OpTable& table, const Cache& c, const std::vector<float>& q, int begin, int end,
                          int chunk, int threads) {
  const int heads = static_cast<int>(c.shape.q_to_kv.size());
  const size_t row = static_cast<size_t>(heads) * static_cast<size_t>(c.shape.head_dim);
  std::vector<float> out(row * static_cast<size_t>(end - begin), -1e30f);
  const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
  for (int p = begin; p < end; p += chunk) {
    const int rows = std::min(chunk, end - p);
    const AttentionSequence sequence = {c.table.data(), 0, rows, p};
    std::vector<float> workspace(
        static_cast<size_t>(table.attention_workspace(threads, rows, heads, c.shape.head_dim, p + rows)));
    AttentionArgs a{};
    a.q = q.data() + row * static_cast<size_t>(p);
    a.out = out.data() + row * static_cast<size_t>(p - begin);
    a.q_stride = static_cast<int64_t>(row);
    a.cache = c.layer;
    a.sequences = &sequence;
    a.sequence_count = 1;
    a.q_to_kv = c.shape.q_to_kv.data();
    a.q_heads = heads;
    a.scale = 0.3f;
    a.workspace = workspace.data();
    EXPECT_TRUE(table.attention(*stream, a).ok());
  }
  return out;
}

std::vector<float> Queries(const Shape& s, int positions) {
  return RandomFloats(s.q_to_kv.size() * static_cast<size_t>(s.head_dim * positions), 103);
}

const Shape kShapes[] = {
    {{0, 0, 0, 1, 1, 1, 2, 2, 2}, 3, 64, 16},  // SmolLM2-135M
    {{0, 1, 1}, 2, 20, 32},                    // uneven groups, a head_dim that fills no vector
    {{0, 0}, 1, 128, 64},                      // a block larger than a key tile
    {{1}, 2, 256, 16},                         // a rank that touches only the second kv head
};

struct Case {
  const OpTable* table;
  DType dtype;
};
class Attention : public testing::TestWithParam<Case> {
 protected:
  const OpTable& table() const { return *GetParam().table; }
};

TEST_P(Attention, AgreesWithTheReference) {
  for (const Shape& s : kShapes) {
    for (const int positions : {1, 5, 32, 33, 100}) {
      const Cache c(s, GetParam().dtype, positions, 1);
      const auto q = Queries(s, positions);
      SCOPED_TRACE(testing::Message() << "head_dim " << s.head_dim << " positions " << positions);
      ExpectRowsNear(Attend(RefTable(), c, q, 0, positions, positions, 1),
                     Attend(table(), c, q, 0, positions, positions, 2), static_cast<size_t>(s.head_dim), 1e-3f);
    }
  }
}

TEST_P(Attention, AgreesWithTheReferenceAcrossSplits) {
  const Shape& s = kShapes[1];
  constexpr int kPositions = 2 * kContextSplit + 40;
  const Cache c(s, GetParam().dtype, kPositions, 2);
  const auto q = Queries(s, kPositions);
  for (const int begin : {kContextSplit - 2, kPositions - 4}) {
    ExpectRowsNear(Attend(RefTable(), c, q, begin, begin + 4, 4, 1), Attend(table(), c, q, begin, begin + 4, 4, 2),
                   static_cast<size_t>(s.head_dim), 1e-3f);
  }
}

TEST_P(Attention, ChunksThreadsAndPlacementDoNotShow) {
  for (const Shape& s : kShapes) {
    constexpr int kPositions = 131;
    const Cache here(s, GetParam().dtype, kPositions, 3), there(s, GetParam().dtype, kPositions, 4);
    ASSERT_NE(here.table, there.table);
    const auto q = Queries(s, kPositions);
    const auto at_once = Attend(table(), here, q, 0, kPositions, kPositions, 1);
    for (const int chunk : {1, 7, 64}) {
      for (const int threads : {1, 3}) {
        SCOPED_TRACE(testing::Message() << "head_dim " << s.head_dim << " chunk " << chunk << " threads " << threads);
        ExpectSameBits(at_once, Attend(table(), here, q, 0, kPositions, chunk, threads));
      }
    }
    ExpectSameBits(at_once, Attend(table(), there, q, 0, kPositions, 50, 2));
  }
}

// Beyond a context split decode goes another way through the workspace; the bits must be those of a long prefill chunk.
TEST_P(Attention, ChunksAndThreadsDoNotShowAcrossSplits) {
  const Shape& s = kShapes[0];
  constexpr int kBegin = kContextSplit - 9, kPositions = kContextSplit + 14;
  const Cache c(s, GetParam().dtype, kPositions, 5);
  const auto q = Queries(s, kPositions);
  const auto at_once = Attend(table(), c, q, kBegin, kPositions, kPositions, 1);
  for (const int chunk : {1, 3, 8, 10}) {
    for (const int threads : {1, 5}) ExpectSameBits(at_once, Attend(table(), c, q, kBegin, kPositions, chunk, threads));
  }
}

// Sequences of a batch do not see each other, whatever their order and lengths.
TEST_P(Attention, BatchOfSequencesIsEachAlone) {
  const Shape& s = kShapes[0];
  const int lengths[] = {70, 1, 33}, rows[] = {1, 1, 12};
  const size_t row = s.q_to_kv.size() * static_cast<size_t>(s.head_dim);
  const Cache c(s, GetParam().dtype, 70, 6);
  const auto q = Queries(s, 70);
  std::vector<AttentionSequence> sequences;
  std::vector<float> batch_q, alone;
  for (int i = 0; i < 3; ++i) {
    const int begin = lengths[i] - rows[i];
    sequences.push_back({c.table.data(), static_cast<int>(batch_q.size() / row), rows[i], begin});
    batch_q.insert(batch_q.end(), q.begin() + static_cast<std::ptrdiff_t>(row) * begin,
                   q.begin() + static_cast<std::ptrdiff_t>(row) * lengths[i]);
    const auto y = Attend(table(), c, q, begin, lengths[i], rows[i], 1);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  std::vector<float> out(batch_q.size());
  std::vector<float> workspace(static_cast<size_t>(table().attention_workspace(2, 14, 9, s.head_dim, 70)));
  AttentionArgs a{};
  a.q = batch_q.data();
  a.out = out.data();
  a.q_stride = static_cast<int64_t>(row);
  a.cache = c.layer;
  a.sequences = sequences.data();
  a.sequence_count = 3;
  a.q_to_kv = s.q_to_kv.data();
  a.q_heads = 9;
  a.scale = 0.3f;
  a.workspace = workspace.data();
  const std::unique_ptr<Stream> stream = MakeCpuStream(2);
  ASSERT_TRUE(table().attention(*stream, a).ok());
  ExpectSameBits(alone, out);
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  const Shape& s = kShapes[0];
  const Cache c(s, GetParam().dtype, 60, 7);
  auto q = Queries(s, 60);
  for (float& x : q) x *= 100;
  ExpectRowsNear(Attend(RefTable(), c, q, 50, 60, 10, 1), Attend(table(), c, q, 50, 60, 10, 1),
                 static_cast<size_t>(s.head_dim), 1e-3f);
}

TEST_P(Attention, NanStaysNan) {
  const Shape& s = kShapes[0];
  const Cache c(s, GetParam().dtype, 40, 8);
  auto q = Queries(s, 40);
  q[39 * 9 * 64 + 5] = std::nanf("");
  const auto out = Attend(table(), c, q, 38, 40, 2, 1);
  EXPECT_TRUE(std::isfinite(out[5]));
  EXPECT_TRUE(std::isnan(out[9 * 64 + 5]));
  EXPECT_TRUE(std::isfinite(out[9 * 64 + 64])) << "another head of the same row";
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const OpTable* table : FastTables()) {
    for (const DType t : {DType::kF32, DType::kF16, DType::kBF16}) cases.push_back({table, t});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Tables, Attention, testing::ValuesIn(Cases()), [](const auto& info) {
  return NameOf(*info.param.table) + "_" + std::string(Info(info.param.dtype).name);
});

}  // namespace
}  // namespace shoal::ops
