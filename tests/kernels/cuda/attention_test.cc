#include "kernels/cuda/attention.h"

#include <algorithm>
#include <limits>

#include "tests/kernels/cuda/attention_memory.h"

namespace shoal::cuda {
namespace {

using Shape = AttentionShape;
using Part = AttentionPart;
using Memory = AttentionMemory;

// How the work is cut.
struct Cut {
  int workers = 3;
  int slots = 0;
  int narrow_tokens = 1;  // sequences of more are wide
  uint64_t placement = 1;
};

// What a layer may have.
struct Options {
  int window = 0;
  float soft_cap = 0;
  bool causal = true;
};

constexpr float kScale = 0.11f;

// A list on the "device".
struct DeviceList {
  DeviceList(const Memory& m, const AttentionTiling& tiling, int head_dim)
      : work(m.sequences, m.heads_begin, tiling),
        join_count(static_cast<int32_t>(work.joins.size())),
        partials(static_cast<size_t>(tiling.slots) * AttentionSlotFloats(tiling.tile_rows, head_dim)) {
    view = {work.items.data(),
            work.first.data(),
            work.joins.data(),
            &join_count,
            partials.data(),
            tiling.workers,
            tiling.slots > 0 ? tiling.workers : 0};
  }
  AttentionLists work;
  int32_t join_count;
  Buffer<float> partials;
  AttentionList view;
};

Attention OpOf(const Shape& s, Memory& m, const Options& o = {}) {
  Attention op = {};
  op.window = o.window;
  op.soft_cap = o.soft_cap;
  op.causal = o.causal;
  op.q = m.q.data();
  op.out = m.out.data();
  op.q_stride = static_cast<int64_t>(s.row()) + 2;
  op.k = m.k.data();
  op.v = m.v.data();
  op.block_size = s.block_size;
  op.kv_heads = s.kv_heads;
  op.head_dim = s.head_dim;
  op.q_heads = s.q_heads();
  op.scale = kScale;
  op.sequences = m.sequences.data();
  op.heads_begin = m.heads_begin.data();
  op.narrow_rows = NarrowRows(s.head_dim, HeadsMax(s.q_to_kv));
  return op;
}

std::vector<float> Enqueued(const Shape& s, Memory& m, const Cut& cut, const Options& o = {}) {
  Attention op = OpOf(s, m, o);
  const DeviceList narrow(m, {op.narrow_rows, cut.workers, cut.slots, 1, cut.narrow_tokens, o.causal}, s.head_dim);
  AttentionTiling rest = {WideRows(s.head_dim), cut.workers, cut.slots, cut.narrow_tokens + 1};
  rest.causal = o.causal;
  const DeviceList wide(m, rest, s.head_dim);
  op.narrow = narrow.view;
  op.wide = wide.view;
  const absl::Status status = Enqueue(nullptr, op);
  EXPECT_TRUE(status.ok()) << status;
  return m.out.Floats();
}

// out [tokens, q_heads, head_dim] of all the parts' tokens in their order.
std::vector<float> Attend(const Shape& s, const std::vector<Part>& parts, const Cut& cut, const Options& o = {}) {
  Memory memory(s, parts, cut.placement);
  return Enqueued(s, memory, cut, o);
}

std::vector<float> Reference(const Shape& s, const std::vector<Part>& parts, const Options& o) {
  Memory m(s, parts, 1);
  const std::vector<float> q = m.q.Floats();
  std::vector<float> out(m.out.size());
  ops::AttentionArgs a{};
  a.q = q.data();
  a.out = out.data();
  a.q_stride = static_cast<int64_t>(s.row()) + 2;
  a.cache = {m.k.data(), m.v.data(), DType::kBF16, s.block_size, s.kv_heads, s.head_dim};
  a.sequences = m.sequences.data();
  a.sequence_count = static_cast<int>(m.sequences.size());
  a.q_to_kv = s.q_to_kv.data();
  a.q_heads = s.q_heads();
  a.scale = kScale;
  a.window = o.window;
  a.soft_cap = o.soft_cap;
  a.causal = o.causal;
  const auto stream = ops::MakeCpuStream(1);
  EXPECT_TRUE(ops::RefTable().attention(*stream, a).ok());
  return out;
}

// Each head within 1e-2 of its largest value (weights and results are bf16), and the mean error far below.
void ExpectNear(const Shape& s, const std::vector<Part>& parts, const Cut& cut, const Options& o = {}) {
  const auto expected = Reference(s, parts, o), got = Attend(s, parts, cut, o);
  ops::ExpectRowsNear(expected, got, static_cast<size_t>(s.head_dim), 1e-2f);
  double squares = 0, errors = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += static_cast<double>(expected[i]) * expected[i];
    errors += std::pow(static_cast<double>(got[i]) - expected[i], 2);
  }
  EXPECT_LT(std::sqrt(errors / squares), 3e-3);
}

const Shape kGrouped = {{0, 0, 0, 1, 1}, 2, 64, 16};
const Shape kUneven = {{1, 2, 2, 2, 2, 2, 2, 2, 2, 2}, 4, 128, 32};  // kv heads 0 and 3 are not touched
const Shape kPadded = {{0, 0}, 1, 80, 64};
const Shape kLarge = {{0, 0, 0}, 1, 256, 128};  // a block is two key tiles

TEST(CudaAttentionTile, FragmentsOfATileAreEveryElementOnce) {
  std::vector<int> seen(kAttentionTile * 128, 0);
  for (int t = 0; t < kAttentionTile / 16; ++t) {
    for (int s = 0; s < 8; ++s) {
      for (int lane = 0; lane < 32; ++lane) {
        const int key = LaterFragment<128>(KeyFragmentOffset<128>(lane), t, s);
        const int value = LaterFragment<128>(ValueFragmentOffset<128>(lane), t, s);
        EXPECT_EQ(key, ChunkOffset<128>(16 * t + lane % 16, 2 * s + lane / 16));
        EXPECT_EQ(value, ChunkOffset<128>(16 * t + lane % 8 + lane / 16 * 8, 2 * s + lane / 8 % 2));
        for (int i = 0; i < 8; ++i) ++seen[static_cast<size_t>(key + i)], seen[static_cast<size_t>(value + i)] += 2;
      }
    }
  }
  for (const int count : seen) EXPECT_EQ(count, 3);
}

TEST(CudaAttentionTile, EightKeysOfAMatrixLieInDifferentBanks) {
  for (int chunk = 0; chunk < 16; ++chunk) {
    std::vector<bool> used(8, false);
    for (int key = 8; key < 16; ++key) used[static_cast<size_t>(ChunkOffset<128>(key, chunk) / 8 % 8)] = true;
    EXPECT_EQ(std::count(used.begin(), used.end(), true), 8);
  }
}

TEST(CudaAttentionTile, LaterKeysLieWhereTheyBelong) {
  for (int key = 0; key < 4; ++key) {
    for (int later = 0; later < kAttentionTile; later += 4) {
      for (int chunk = 0; chunk < 8; ++chunk) {
        EXPECT_EQ(LaterKey<64>(ChunkOffset<64>(key, chunk), later), ChunkOffset<64>(key + later, chunk));
      }
    }
  }
}

TEST(CudaAttention, AgreesWithTheReference) {
  ExpectNear(kGrouped, {{1, 0, 1}, {2, 40, 41}, {3, 270, 271}, {4, 3, 90}}, {});
  ExpectNear(kUneven, {{1, 64, 65}, {2, 255, 257}, {3, 0, 20}}, {.slots = 30});
  ExpectNear(kPadded, {{1, 300, 301}, {2, 10, 30}}, {.workers = 1});
  ExpectNear(kLarge, {{1, 129, 130}, {2, 60, 70}}, {});
}

TEST(CudaAttention, ALongContextAgreesWithTheReference) {
  ExpectNear(kGrouped, {{1, 1500, 1501}}, {.workers = 12, .slots = 40});
}

TEST(CudaAttention, TheOrderOfThreadsDoesNotShow) {
  const auto y = InEveryOrder<float>([] {
    return Attend(kGrouped, {{1, 520, 521}, {2, 30, 75}}, {.workers = 4, .slots = 20});
  });
  EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); }));
}

// One sequence's tokens [begin, end) in chunks; chunks of up to narrow_tokens take the narrow way.
void ExpectChunksDoNotShow(const Shape& s, int begin, int end, const std::vector<int>& chunks) {
  const auto at_once = Attend(s, {{5, begin, end}}, {.narrow_tokens = 0});
  for (const int chunk : chunks) {
    for (const Cut& cut :
         {Cut{.workers = 2, .narrow_tokens = 4}, {.workers = 5, .slots = 60, .narrow_tokens = 4, .placement = 8}}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << s.head_dim << " chunk " << chunk << " slots " << cut.slots);
      std::vector<float> joined;
      for (int p = begin; p < end; p += chunk) {
        const auto y = Attend(s, {{5, p, std::min(p + chunk, end)}}, cut);
        joined.insert(joined.end(), y.begin(), y.end());
      }
      ops::ExpectSameBits(at_once, joined);
    }
  }
}

TEST(CudaAttention, ChunksAndDecodeDoNotShow) {
  ExpectChunksDoNotShow(kGrouped, 250, 265, {1, 3, 11});
  ExpectChunksDoNotShow(kUneven, 509, 515, {1, 5});
  ExpectChunksDoNotShow(kLarge, 254, 259, {1, 4});
}

TEST(CudaAttention, AWholePromptIsItsTokensOneByOne) {
  const auto at_once = Attend(kGrouped, {{6, 0, 70}}, {});
  for (const int p : {0, 1, 15, 16, 42, 63, 64, 69}) {
    const auto alone = Attend(kGrouped, {{6, p, p + 1}}, {});
    ops::ExpectSameBits(at_once.data() + static_cast<size_t>(p) * kGrouped.row(), alone.data(), kGrouped.row());
  }
}

TEST(CudaAttention, OtherSequencesWorkersAndBlocksDoNotShow) {
  const std::vector<Part> parts = {{1, 700, 701}, {2, 0, 1},     {3, 513, 560},
                                   {4, 255, 256}, {5, 256, 257}, {6, 100, 100}};
  std::vector<float> alone;
  for (const Part& p : parts) {
    if (p.begin == p.end) continue;
    const auto y = Attend(kGrouped, {p}, {.workers = 1});
    alone.insert(alone.end(), y.begin(), y.end());
  }
  for (const Cut& cut : {Cut{.workers = 1},
                         {.workers = 3, .placement = 4},
                         {.workers = 7, .slots = 100, .placement = 5},
                         {.workers = 40, .slots = 100},
                         {.workers = 40, .slots = 3}}) {
    SCOPED_TRACE(testing::Message() << cut.workers << " workers, " << cut.slots << " slots");
    ops::ExpectSameBits(alone, Attend(kGrouped, parts, cut));
  }
}

TEST(CudaAttention, LargeScoresDoNotOverflow) {
  Memory m(kGrouped, {{1, 290, 291}, {2, 20, 26}}, 1);
  for (size_t i = 0; i < m.q.size(); ++i) m.q.data()[i] = FromFloat<bf16>(ToFloat(m.q.data()[i]) * 300);
  const auto y = Enqueued(kGrouped, m, {.workers = 4, .slots = 10});
  EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); }));
  EXPECT_GT(*std::max_element(y.begin(), y.end()), 1) << "nearly one key's value";
}

TEST(CudaAttention, NanStaysNanAndInItsHead) {
  for (const int narrow_tokens : {0, 2}) {
    Memory m(kGrouped, {{1, 290, 292}}, 1);
    m.q.data()[kGrouped.row() + 2 + 70] = FromFloat<bf16>(NAN);  // token 1, head 1
    const auto y = Enqueued(kGrouped, m, {.workers = 4, .slots = 10, .narrow_tokens = narrow_tokens});
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(std::isnan(y[i]), i >= kGrouped.row() + 64 && i < kGrouped.row() + 128) << i;
    }
  }
}

// Windows that end inside a tile, at its border, at a split's, that are one position, and that hide nothing; of a unit
// that is cut, splits are hidden before the first join and after it.
TEST(CudaAttention, AWindowAgreesWithTheReference) {
  for (const int window : {1, 64, 100, 256, 1 << 30}) {
    SCOPED_TRACE(testing::Message() << "window " << window);
    const Options o = {.window = window};
    ExpectNear(kGrouped, {{1, 0, 1}, {2, 40, 41}, {3, 270, 271}, {4, 3, 90}, {5, 500, 560}}, {}, o);
    ExpectNear(kGrouped, {{1, 1500, 1501}}, {.workers = 12, .slots = 40}, o);
  }
  const Options o = {.window = 100};
  ExpectNear(kUneven, {{1, 64, 65}, {2, 255, 257}, {3, 0, 20}, {4, 700, 800}}, {.slots = 30}, o);
  ExpectNear(kPadded, {{1, 300, 301}, {2, 10, 30}}, {.workers = 1}, o);
  ExpectNear(kLarge, {{1, 529, 530}, {2, 60, 70}}, {.workers = 5, .slots = 20}, o);
}

// Whatever is passed over, a row's bits are those of any list, chunk and split.
TEST(CudaAttention, AWindowShowsInNoCut) {
  for (const int window : {7, 130, 300}) {
    const Options o = {.window = window};
    const auto whole = Attend(kGrouped, {{5, 500, 548}}, {.workers = 1, .narrow_tokens = 0}, o);
    for (const Cut& cut : {Cut{.workers = 2, .narrow_tokens = 4}, {.workers = 9, .slots = 60, .narrow_tokens = 4}}) {
      for (const int chunk : {5, 17}) {
        SCOPED_TRACE(testing::Message() << "window " << window << " chunk " << chunk << " slots " << cut.slots);
        std::vector<float> joined;
        for (int p = 500; p < 548; p += chunk) {
          const auto y = Attend(kGrouped, {{5, p, std::min(p + chunk, 548)}}, cut, o);
          joined.insert(joined.end(), y.begin(), y.end());
        }
        ops::ExpectSameBits(whole, joined);
      }
    }
  }
}

// No row sees less than a window of all, and so the bits are those without one.
TEST(CudaAttention, AWindowOfEverythingIsNone) {
  const std::vector<Part> parts = {{1, 290, 291}, {2, 0, 70}};
  const auto none = Attend(kGrouped, parts, {.slots = 10});
  ops::ExpectSameBits(none, Attend(kGrouped, parts, {.slots = 10}, {.window = 291}));
  EXPECT_NE(none, Attend(kGrouped, parts, {.slots = 10}, {.window = 290}));
}

// Keys and values that lie in tiles hidden as a whole may be anything, as of a block that was given to others.
TEST(CudaAttention, WhatAWindowHidesIsNotRead) {
  const Options o = {.window = 70};
  for (const Cut& cut : {Cut{.workers = 1}, {.workers = 9, .slots = 60}, {.workers = 3, .narrow_tokens = 0}}) {
    Memory whole(kGrouped, {{1, 900, 901}}, 1), poisoned(kGrouped, {{1, 900, 901}}, 1);
    const auto before = Enqueued(kGrouped, whole, cut, o);
    const int first_tile = (901 - 70) / kAttentionTile, blocks = first_tile * kAttentionTile / kGrouped.block_size;
    const size_t block = Memory::BlockSize(kGrouped);
    for (int b = 0; b < blocks; ++b) {
      const size_t at = static_cast<size_t>(poisoned.tables[static_cast<size_t>(b)]) * block;
      std::fill_n(poisoned.k.data() + at, block, FromFloat<bf16>(NAN));
      std::fill_n(poisoned.v.data() + at, block, FromFloat<bf16>(NAN));
    }
    ops::ExpectSameBits(before, Enqueued(kGrouped, poisoned, cut, o));
  }
}

TEST(CudaAttention, ASoftCapAgreesWithTheReference) {
  for (const float cap : {0.5f, 3.0f, 50.0f}) {
    for (const int window : {0, 90}) {
      SCOPED_TRACE(testing::Message() << "cap " << cap << " window " << window);
      const Options o = {.window = window, .soft_cap = cap};
      ExpectNear(kGrouped, {{1, 0, 1}, {2, 40, 41}, {3, 270, 271}, {4, 3, 90}}, {.workers = 4, .slots = 10}, o);
      ExpectNear(kLarge, {{1, 129, 130}, {2, 60, 70}}, {}, o);
    }
  }
  const std::vector<Part> parts = {{1, 290, 291}, {2, 20, 26}};
  EXPECT_NE(Attend(kGrouped, parts, {}, {.soft_cap = 0.5f}), Attend(kGrouped, parts, {})) << "trivial";
}

TEST(CudaAttention, ScoresFarBeyondTheCapDoNotOverflow) {
  Memory m(kGrouped, {{1, 290, 291}, {2, 20, 26}}, 1);
  for (size_t i = 0; i < m.q.size(); ++i) m.q.data()[i] = FromFloat<bf16>(ToFloat(m.q.data()[i]) * 1e4f);
  const auto y = Enqueued(kGrouped, m, {.workers = 4, .slots = 10}, {.soft_cap = 30});
  EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); }));
}

// Whole sequences, as an encoder has them: each row sees the rows after it.
TEST(CudaAttention, WithoutAnOrderARowSeesItsWholeSequence) {
  const Options o = {.causal = false};
  const std::vector<Part> parts = {{1, 0, 1}, {2, 0, 3}, {3, 0, 70}, {4, 0, 300}};
  for (const Cut& cut : {Cut{.narrow_tokens = 4}, {.workers = 1}, {.workers = 9, .slots = 60, .narrow_tokens = 2}}) {
    ExpectNear(kGrouped, parts, cut, o);
    std::vector<float> alone;
    for (const Part& p : parts) {
      const auto y = Attend(kGrouped, {p}, {.workers = 2, .narrow_tokens = 0}, o);
      alone.insert(alone.end(), y.begin(), y.end());
    }
    ops::ExpectSameBits(alone, Attend(kGrouped, parts, cut, o));
  }
  ExpectNear(kLarge, {{1, 0, 270}}, {}, {.soft_cap = 4, .causal = false});
}

TEST(CudaAttention, TheOrderOfThreadsDoesNotShowInWindows) {
  const auto y = InEveryOrder<float>([] {
    return Attend(kGrouped, {{1, 520, 521}, {2, 300, 345}}, {.workers = 6, .slots = 20}, {.window = 80, .soft_cap = 9});
  });
  EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); }));
}

TEST(CudaAttention, RefusesWindowsAndCapsThatAreNone) {
  Memory m(kGrouped, {{1, 0, 1}}, 1);
  for (const Options& o :
       {Options{.window = -1}, {.window = 4, .causal = false}, {.soft_cap = -2}, {.soft_cap = NAN}}) {
    EXPECT_EQ(Enqueue(nullptr, OpOf(kGrouped, m, o)).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(Enqueue(nullptr, OpOf(kGrouped, m)).ok());
}

TEST(CudaAttention, RefusesWhatItCannotServe) {
  Memory m(kGrouped, {{1, 0, 1}}, 1);
  const auto refused = [&](const Shape& s, float scale, int64_t q_stride, int narrow_rows) {
    Attention op = OpOf(s, m);
    op.scale = scale;
    op.q_stride = q_stride;
    op.narrow_rows = narrow_rows;
    op.narrow.workers = 1;
    return Enqueue(nullptr, op).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({{0}, 1, 72, 16}, 1, 64, 8));
  EXPECT_TRUE(refused({{0}, 1, 272, 16}, 1, 64, 8));
  EXPECT_TRUE(refused({{0}, 1, 64, 8}, 1, 64, 8));
  EXPECT_TRUE(refused({{0}, 1, 64, 48}, 1, 64, 8));
  EXPECT_TRUE(refused({{0}, 1, 64, 16}, 0, 64, 8));
  EXPECT_TRUE(refused({{0}, 1, 64, 16}, 1, 65, 8));
  EXPECT_TRUE(refused({{0}, 1, 64, 16}, 1, 64, 24));
  EXPECT_TRUE(refused({{0}, 1, 256, 16}, 1, 64, 16));
}

TEST(CudaAttention, FillsAMultiprocessor) {
  constexpr size_t kA100 = 164 << 10, kH100 = 228 << 10;
  EXPECT_EQ(NarrowWorkers(64, 8, kH100), 8);
  EXPECT_EQ(NarrowWorkers(128, 8, kA100), 3);
  EXPECT_EQ(NarrowWorkers(128, 8, kH100), 4);
  EXPECT_EQ(NarrowWorkers(128, 16, kH100), 4);
  EXPECT_EQ(NarrowWorkers(256, 8, kH100), 2);
}

}  // namespace
}  // namespace shoal::cuda
