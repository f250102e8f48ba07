#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
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

// What rows see of their sequence.
struct Sight {
  int window = 0;
  float soft_cap = 0;
  bool causal = true;
};

// Attention of rows [begin, end) of one sequence whose row p has query q[p], in chunks of `chunk`.
std::vector<float> Attend(const OpTable& table, const Cache& c, const std::vector<float>& q, int begin, int end,
                          int chunk, int threads, const Sight& sight = {}) {
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
    a.window = sight.window;
    a.soft_cap = sight.soft_cap;
    a.causal = sight.causal;
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

// The last `rows` of a sequence of `length` tokens. All sequences of a batch share the cache's one table.
struct Tail {
  int length, rows;
};

// A batch of tails gives the bits of each of them alone.
void ExpectEachAlone(const OpTable& table, const Cache& c, const std::vector<float>& q, const std::vector<Tail>& tails,
                     int threads, const Sight& sight = {}) {
  const int heads = static_cast<int>(c.shape.q_to_kv.size());
  const size_t row = static_cast<size_t>(heads) * static_cast<size_t>(c.shape.head_dim);
  std::vector<AttentionSequence> sequences;
  std::vector<float> batch_q, alone;
  int tokens = 0, longest = 0;
  for (const Tail& tail : tails) {
    const int begin = tail.length - tail.rows;
    sequences.push_back({c.table.data(), tokens, tail.rows, begin});
    tokens += tail.rows;
    longest = std::max(longest, tail.length);
    batch_q.insert(batch_q.end(), q.begin() + static_cast<std::ptrdiff_t>(row) * begin,
                   q.begin() + static_cast<std::ptrdiff_t>(row) * tail.length);
    const auto y = Attend(table, c, q, begin, tail.length, tail.rows, 1, sight);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  std::vector<float> out(batch_q.size());
  std::vector<float> workspace(
      static_cast<size_t>(table.attention_workspace(threads, tokens, heads, c.shape.head_dim, longest)));
  AttentionArgs a{};
  a.q = batch_q.data();
  a.out = out.data();
  a.q_stride = static_cast<int64_t>(row);
  a.cache = c.layer;
  a.sequences = sequences.data();
  a.sequence_count = static_cast<int>(sequences.size());
  a.q_to_kv = c.shape.q_to_kv.data();
  a.q_heads = heads;
  a.scale = 0.3f;
  a.workspace = workspace.data();
  a.window = sight.window;
  a.soft_cap = sight.soft_cap;
  a.causal = sight.causal;
  const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
  ASSERT_TRUE(table.attention(*stream, a).ok());
  ExpectSameBits(alone, out);
}

// Sequences of a batch do not see each other, whatever their order and lengths: within one context split, and with some
// beyond it, for as many rows as are split over tasks (8) and for more.
TEST_P(Attention, BatchOfSequencesIsEachAlone) {
  const Shape& s = kShapes[0];
  constexpr int kLongest = 2 * kContextSplit + 42;
  const Cache c(s, GetParam().dtype, kLongest, 6);
  const auto q = Queries(s, kLongest);
  ExpectEachAlone(table(), c, q, {{70, 1}, {1, 1}, {33, 12}}, 2);
  for (const int threads : {1, 3}) {
    ExpectEachAlone(table(), c, q, {{1100, 1}, {3, 1}, {kLongest, 1}}, threads);
    ExpectEachAlone(table(), c, q, {{1100, 2}, {3, 2}, {kLongest, 4}}, threads);
    ExpectEachAlone(table(), c, q, {{1100, 3}, {3, 2}, {kLongest, 4}}, threads);
    ExpectEachAlone(table(), c, q, {{kLongest, 1}, {3, 3}, {1025, 2}, {1024, 1}}, threads);
  }
}

// A decode row among 1 to 64: every batch begins with the same sequences, of which one is beyond a context split.
TEST_P(Attention, RowAloneIsTheRowAmongOthers) {
  const Shape& s = kShapes[1];
  constexpr int kLongest = kContextSplit + 76;
  const Cache c(s, GetParam().dtype, kLongest, 9);
  const auto q = Queries(s, kLongest);
  std::vector<Tail> tails;
  for (int m = 1; m <= 64; ++m) {
    tails.push_back({m == 2 ? kLongest : m * 37 % 200 + 1, 1});
    SCOPED_TRACE(testing::Message() << m << " rows");
    ExpectEachAlone(table(), c, q, tails, m % 3 + 1);
  }
}

const Sight kSights[] = {{.window = 1},
                         {.window = 7},
                         {.window = 32},
                         {.window = 50},
                         {.window = 5000},
                         {.soft_cap = 1.5f},
                         {.window = 20, .soft_cap = 3},
                         {.causal = false}};

// Each kind of sight shows in the reference, and every backend has it.
TEST_P(Attention, SightAgreesWithTheReference) {
  for (const Shape& s : kShapes) {
    constexpr int kPositions = 100;
    const Cache c(s, GetParam().dtype, kPositions, 11);
    const auto q = Queries(s, kPositions);
    const auto plain = Attend(RefTable(), c, q, 0, kPositions, kPositions, 1);
    for (const Sight& sight : kSights) {
      SCOPED_TRACE(testing::Message() << "head_dim " << s.head_dim << " window " << sight.window << " cap "
                                      << sight.soft_cap << " causal " << sight.causal);
      const auto expected = Attend(RefTable(), c, q, 0, kPositions, kPositions, 1, sight);
      EXPECT_EQ(expected == plain, sight.window > kPositions);
      ExpectRowsNear(expected, Attend(table(), c, q, 0, kPositions, kPositions, 2, sight),
                     static_cast<size_t>(s.head_dim), 1e-3f);
    }
  }
}

// Windows that begin in another context split than the one a row is in, or in the same, or on its border.
TEST_P(Attention, WindowsAcrossSplitsAgreeAndShowNoChunks) {
  const Shape& s = kShapes[1];
  constexpr int kBegin = 2 * kContextSplit - 6, kPositions = 2 * kContextSplit + 40;
  const Cache c(s, GetParam().dtype, kPositions, 12);
  const auto q = Queries(s, kPositions);
  for (const int window : {10, 41, kContextSplit, kContextSplit + 20, 2 * kContextSplit + 30}) {
    const Sight sight = {.window = window, .soft_cap = 4};
    SCOPED_TRACE(testing::Message() << "window " << window);
    const auto at_once = Attend(table(), c, q, kBegin, kPositions, kPositions, 1, sight);
    ExpectRowsNear(Attend(RefTable(), c, q, kBegin, kPositions, kPositions, 1, sight), at_once,
                   static_cast<size_t>(s.head_dim), 1e-3f);
    for (const int chunk : {1, 5, 8, 30}) {
      ExpectSameBits(at_once, Attend(table(), c, q, kBegin, kPositions, chunk, chunk % 3 + 1, sight));
    }
  }
}

// Without an order the chunk is the sequence; its neighbours in the batch do not show.
TEST_P(Attention, SightOfABatchIsThatOfEachAlone) {
  const Shape& s = kShapes[0];
  constexpr int kLongest = kContextSplit + 42;
  const Cache c(s, GetParam().dtype, kLongest, 13);
  const auto q = Queries(s, kLongest);
  for (const int threads : {1, 3}) {
    ExpectEachAlone(table(), c, q, {{1100, 3}, {3, 2}, {kLongest, 2}}, threads, {.window = 90});
    ExpectEachAlone(table(), c, q, {{60, 60}, {1, 1}, {33, 33}}, threads, {.causal = false});
    ExpectEachAlone(table(), c, q, {{kLongest, kLongest}, {5, 5}}, threads, {.causal = false});
  }
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
