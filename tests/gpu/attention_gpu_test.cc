// Attention on the device: beside the reference, and a token's bits whatever the batch, the chunks and the blocks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "common/base/rng.h"
#include "tests/gpu/on_device.h"
#include "tests/kernels/cuda/attention_cases.h"

namespace shoal::gpu {
namespace {

constexpr float kScale = 0.11f;
constexpr float kTolerance = 1e-2f;  // weights and results are bf16

using Shape = cuda::AttentionShape;
using Part = cuda::AttentionPart;
using cuda::kUneven;
using cuda::kWideGroup;

// Values of a position's query (which 0), key (1) or value (2) are this.
std::vector<float> Contents(int id, int which, int position, size_t count) {
  return RandomActs(count, Seed() + static_cast<uint64_t>((id * 3 + which) * 100000 + position));
}

// What the host holds of a batch, in the layout of the ops; what was never written is `poison`.
struct Batch {
  Batch(const Shape& s, const std::vector<Part>& parts, uint64_t placement, int padding, uint16_t poison = 0xffff)
      : shape(s) {
    int blocks = 3, rows = padding;
    for (const Part& p : parts) {
      blocks += (p.end + s.block_size - 1) / s.block_size;
      rows += p.end - p.begin;
    }
    const size_t block = static_cast<size_t>(s.block_size) * static_cast<size_t>(s.kv_heads * s.head_dim);
    k.assign(static_cast<size_t>(blocks) * block, poison);
    v = k;
    q.assign(static_cast<size_t>(rows) * (s.row() + 2), 0xffff);
    std::vector<int32_t> free(static_cast<size_t>(blocks));
    for (size_t b = 0; b < free.size(); ++b) free[b] = static_cast<int32_t>(b);
    int row = 0;
    for (const Part& p : parts) {
      table_begin.push_back(tables.size());
      sequences.push_back({nullptr, row, p.end - p.begin, p.begin});
      for (int at = 0; at < p.end; ++at) {
        if (at % s.block_size == 0) {
          const size_t pick = RandomBits(placement, 9, tables.size()) % free.size();
          tables.push_back(free[pick]);
          free.erase(free.begin() + static_cast<std::ptrdiff_t>(pick));
        }
        Write(p.id, at);
        if (at >= p.begin) WriteQ(p.id, at, row++);
      }
    }
  }
  // Where dimension 0 of a head's key or value of the position that was placed last lies.
  size_t Offset(int at, int head) const {
    return ((static_cast<size_t>(tables.back()) * static_cast<size_t>(shape.kv_heads) + static_cast<size_t>(head)) *
                static_cast<size_t>(shape.block_size) +
            static_cast<size_t>(at % shape.block_size)) *
           static_cast<size_t>(shape.head_dim);
  }
  void Write(int id, int at) {
    const auto dim = static_cast<size_t>(shape.head_dim), heads = static_cast<size_t>(shape.kv_heads);
    const auto keys = ActArray::Bits(Contents(id, 1, at, heads * dim));
    const auto values = ActArray::Bits(Contents(id, 2, at, heads * dim));
    for (size_t h = 0; h < heads; ++h) {
      const size_t to = Offset(at, static_cast<int>(h));
      std::copy_n(keys.begin() + static_cast<std::ptrdiff_t>(h * dim), dim,
                  k.begin() + static_cast<std::ptrdiff_t>(to));
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(h * dim), dim,
                  v.begin() + static_cast<std::ptrdiff_t>(to));
    }
  }
  void WriteQ(int id, int at, int row) {
    const auto bits = ActArray::Bits(Contents(id, 0, at, shape.row()));
    std::copy(bits.begin(), bits.end(), q.begin() + static_cast<std::ptrdiff_t>(row * (shape.row() + 2)));
  }
  std::vector<ops::AttentionSequence> WithTables(const int32_t* base) const {
    std::vector<ops::AttentionSequence> with = sequences;
    for (size_t i = 0; i < with.size(); ++i) with[i].block_table = base + table_begin[i];
    return with;
  }

  const Shape shape;
  std::vector<uint16_t> k, v, q;
  std::vector<int32_t> tables;
  std::vector<size_t> table_begin;
  std::vector<ops::AttentionSequence> sequences;  // without their tables
};

// Everything that batches of one shape share on the device: a plan is written anew over the one before it.
class Backend {
 public:
  struct Most {
    int tokens, sequences, context, rows = 0;
    bool causal = true;
  };
  Backend(const Shape& shape, const Most& most)
      : shape_(shape),
        plan_shape_({.threads = Gpu().stream().threads(),
                     .max_tokens = most.tokens,
                     .max_sequences = most.sequences,
                     .max_context = most.context,
                     .q_to_kv = shape_.q_to_kv.data(),
                     .q_heads = shape_.q_heads(),
                     .kv_heads = shape_.kv_heads,
                     .head_dim = shape_.head_dim,
                     .max_rows = most.rows,
                     .causal = most.causal}),
        q_to_kv_(shape_.q_to_kv),
        plan_(static_cast<size_t>(Table().attention_plan_bytes(plan_shape_))),
        workspace_(static_cast<size_t>(Table().attention_workspace(plan_shape_.threads, most.tokens, shape_.q_heads(),
                                                                   shape_.head_dim, most.context))) {}

  // out of all rows, those of padding last.
  std::vector<float> Attend(const Batch& batch) {
    const Array<int32_t> tables(batch.tables);
    const Array<ops::AttentionSequence> sequences(batch.WithTables(tables.data()));
    const Array<uint16_t> k(batch.k), v(batch.v), q(batch.q);
    const ActArray out(batch.q.size() / (shape_.row() + 2) * shape_.row());
    std::vector<uint8_t> plan(plan_.size());
    Table().attention_plan(plan_shape_, batch.sequences.data(), static_cast<int>(batch.sequences.size()), plan.data());
    plan_.Set(plan);
    ops::AttentionArgs args = ArgsOf(static_cast<int>(batch.sequences.size()), sequences.data());
    args.q = ops::ConstActs(static_cast<const void*>(q.data()));
    args.out = out.acts();
    args.cache.k = k.data();
    args.cache.v = v.data();
    args.q_to_kv = q_to_kv_.data();
    args.workspace = workspace_.data();
    args.plan = plan_.data();
    args.plan_shape = &plan_shape_;
    Call(Table().attention, args);
    std::vector<float> values = out.Floats();
    (void)workspace_.Get();  // looks at its guard
    return values;
  }
  std::vector<float> Attend(const std::vector<Part>& parts, uint64_t placement = 1, int padding = 0) {
    return Attend(Batch(shape_, parts, placement, padding));
  }
  std::vector<float> Reference(const std::vector<Part>& parts) {
    Batch batch(shape_, parts, 1, 0);
    std::vector<float> q(batch.q.size()), out(q.size() / (shape_.row() + 2) * shape_.row());
    for (size_t i = 0; i < q.size(); ++i) q[i] = BF16ToF32(batch.q[i]);
    const auto sequences = batch.WithTables(batch.tables.data());
    std::vector<float> workspace(static_cast<size_t>(ops::RefTable().attention_workspace(
        Host().threads(), plan_shape_.max_tokens, shape_.q_heads(), shape_.head_dim, plan_shape_.max_context)));
    ops::AttentionArgs args = ArgsOf(static_cast<int>(sequences.size()), sequences.data());
    args.q = q.data();
    args.out = out.data();
    args.cache.k = batch.k.data();
    args.cache.v = batch.v.data();
    args.q_to_kv = shape_.q_to_kv.data();
    args.workspace = workspace.data();
    CallReference(ops::RefTable().attention, args);
    return out;
  }
  void ExpectNear(const std::vector<Part>& parts) {
    ops::ExpectRowsNear(Reference(parts), Attend(parts), static_cast<size_t>(shape_.head_dim), kTolerance);
  }
  // Of the layer.
  int window = 0;
  float soft_cap = 0;

 private:
  ops::AttentionArgs ArgsOf(int count, const ops::AttentionSequence* sequences) const {
    return {.q = nullptr,
            .out = nullptr,
            .q_stride = static_cast<int64_t>(shape_.row()) + 2,
            .cache = {nullptr, nullptr, DType::kBF16, shape_.block_size, shape_.kv_heads, shape_.head_dim},
            .sequences = sequences,
            .sequence_count = count,
            .q_to_kv = nullptr,
            .q_heads = shape_.q_heads(),
            .q_head_begin = 0,
            .scale = kScale,
            .workspace = nullptr,
            .window = window,
            .soft_cap = soft_cap,
            .causal = plan_shape_.causal};
  }

  const Shape shape_;
  const ops::AttentionPlanShape plan_shape_;
  const Array<int32_t> q_to_kv_;
  Array<uint8_t> plan_;
  const Array<float> workspace_;
};

// `group` query heads to each key head.
Shape Grouped(int kv_heads, int group, int head_dim, int block_size) {
  Shape s = {{}, kv_heads, head_dim, block_size};
  for (int h = 0; h < kv_heads * group; ++h) s.q_to_kv.push_back(h / group);
  return s;
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

TEST(GpuAttention, AgreesWithTheReference) { cuda::ExpectAttentionIsTheReferences<Backend>(); }

// An 8B model's heads, and those of one and of eight ranks of a 70B one.
TEST(GpuAttention, SizesOfModelsAgreeWithTheReference) {
  const int most = Sized(300, 8192);
  for (const Shape& shape : Sized<std::vector<Shape>>(
           {Grouped(1, 4, 128, 16)}, {Grouped(8, 4, 128, 16), Grouped(8, 8, 128, 32), Grouped(1, 8, 128, 16)})) {
    SCOPED_TRACE(testing::Message() << shape.q_heads() << " heads");
    Backend backend(shape, {160, 10, most});
    backend.ExpectNear({{1, most - 1, most}, {2, 0, 1}, {3, most / 2, most / 2 + 1}, {4, 100, 101}});
    backend.ExpectNear({{5, most - 90, most - 1}, {6, most / 3, most / 3 + 1}, {7, 0, 33}});
  }
}

// Whatever the batch, its shape, the plan's history, the chunks and the blocks.
TEST(GpuAttention, ARowAloneIsTheRowAmongOthers) {
  const int far = Sized(700, 7000);
  for (const Shape& shape : {kUneven, kWideGroup, Grouped(2, 4, 128, 16)}) {
    const std::vector<Part> parts = {{1, far, far + 1}, {2, 0, 1}, {3, 513, 560}, {4, 255, 256}, {5, 256, 258}};
    Backend together(shape, {100, 8, far + 300});
    const auto whole = together.Attend(parts, 5);
    EXPECT_TRUE(AllFinite(whole));
    ops::ExpectSameBits(whole, together.Attend(parts, 6));
    Backend single(shape, {47, 1, far + 300});
    for (const int chunk : Sized<std::vector<int>>({16, 47}, {1, 5, 16, 46, 47})) {
      SCOPED_TRACE(testing::Message() << "chunks of " << chunk);
      std::vector<float> alone;
      for (const Part& p : parts) {
        for (int at = p.begin; at < p.end; at += chunk) {
          const auto y = single.Attend({{p.id, at, std::min(at + chunk, p.end)}}, 3);
          alone.insert(alone.end(), y.begin(), y.end());
        }
      }
      ops::ExpectSameBits(whole, alone);
    }
  }
}

TEST(GpuAttention, ADecodingShapeGivesTheSameBits) {
  cuda::ExpectADecodingShapeGivesTheSameBits<Backend>(Sized(700, 8000));
}

TEST(GpuAttention, PaddingIsNotWritten) { cuda::ExpectPaddingIsNotWritten<Backend>(); }

// Each variant of a worker, decoding and prefilling, with what a layer may have; one plan for all of it.
TEST(GpuAttention, WindowsAndSoftCapsAgreeWithTheReference) {
  const int far = Sized(700, 4000);
  for (const Shape& shape : {kUneven, Grouped(1, 9, 128, 32), Grouped(2, 4, 128, 16), Grouped(1, 2, 256, 16)}) {
    Backend backend(shape, {160, 8, far + 100});
    for (const int window : Sized<std::vector<int>>({70, 300}, {1, 64, 70, 1024, INT32_MAX})) {
      for (const float cap : {0.0f, 5.0f}) {
        SCOPED_TRACE(testing::Message() << "head_dim " << shape.head_dim << " window " << window << " cap " << cap);
        backend.window = window;
        backend.soft_cap = cap;
        backend.ExpectNear({{1, far, far + 1}, {2, 0, 1}, {3, 500, 560}, {4, 255, 256}, {5, 256, 258}});
      }
    }
  }
}

TEST(GpuAttention, ARowInAWindowIsTheRowInEveryChunk) {
  const int far = Sized(700, 4000), window = 130;
  Backend together(kUneven, {160, 8, far + 100}), single(kUneven, {47, 1, far + 100});
  together.window = single.window = window;
  together.soft_cap = single.soft_cap = 20;
  const std::vector<Part> parts = {{1, far, far + 1}, {2, 0, 1}, {3, 513, 560}};
  const auto whole = together.Attend(parts, 5);
  EXPECT_TRUE(AllFinite(whole));
  for (const int chunk : Sized<std::vector<int>>({16}, {1, 5, 16, 47})) {
    std::vector<float> alone;
    for (const Part& p : parts) {
      for (int at = p.begin; at < p.end; at += chunk) {
        const auto y = single.Attend({{p.id, at, std::min(at + chunk, p.end)}}, 3);
        alone.insert(alone.end(), y.begin(), y.end());
      }
    }
    ops::ExpectSameBits(whole, alone);
  }
}

TEST(GpuAttention, WithoutAnOrderARowSeesItsWholeSequence) {
  for (const Shape& shape : {kUneven, Grouped(12, 1, 64, 16), Grouped(2, 4, 128, 16), Grouped(1, 2, 256, 16)}) {
    Backend backend(shape, {.tokens = 700, .sequences = 4, .context = 520, .causal = false});
    backend.ExpectNear({{1, 0, Sized(shape.kv_heads == kUneven.kv_heads ? 270 : 70, 512)}, {2, 0, 1}, {3, 0, 60}});
    const auto whole = backend.Attend({{4, 0, 2}, {5, 0, 77}});
    const auto alone = backend.Attend({{5, 0, 77}});
    ops::ExpectSameBits(whole.data() + 2 * shape.row(), alone.data(), alone.size());
  }
}

// A copy of no bytes into shared memory has to leave zeros there: slots that were never written hold infinities, or no
// numbers, and neither shows.
TEST(GpuAttention, WhatWasNeverWrittenIsNeverSeen) {
  const int far = Sized(290, 4003);
  const std::vector<Part> parts = {{1, far, far + 1}, {2, 3, 4}, {3, 65, 90}, {4, 255, 258}};
  Backend backend(kUneven, {64, 8, far + 100});
  const auto zeros = backend.Attend(Batch(kUneven, parts, 4, 0, 0));
  EXPECT_TRUE(AllFinite(zeros));
  for (const uint16_t poison : {uint16_t{0xffff}, uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7f7f}}) {
    SCOPED_TRACE(testing::Message() << std::hex << poison);
    ops::ExpectSameBits(zeros, backend.Attend(Batch(kUneven, parts, 4, 0, poison)));
  }
}

// A weight of 0 times the largest finite value is 0 in the tensor core, too.
TEST(GpuAttention, HugeValuesOfLaterTokensDoNotShow) {
  Backend backend(kUneven, {64, 2, 400});
  const std::vector<Part> parts = {{1, 200, 240}};
  const auto before = backend.Attend(parts);
  Batch batch(kUneven, parts, 1, 0);
  const int from = 225;  // of one block, and of the tile of the rows before
  const auto dim = static_cast<size_t>(kUneven.head_dim);
  ASSERT_EQ(from / kUneven.block_size, 239 / kUneven.block_size);
  for (int at = from; at < 240; ++at) {
    for (int h = 0; h < kUneven.kv_heads; ++h) {
      std::fill_n(batch.v.begin() + static_cast<std::ptrdiff_t>(batch.Offset(at, h)), dim, uint16_t{0x7f7f});
    }
  }
  const auto after = backend.Attend(batch);
  const size_t rows = static_cast<size_t>(from - 200) * kUneven.row();
  ops::ExpectSameBits(before.data(), after.data(), rows);
  EXPECT_NE(before[rows], after[rows]) << "the token itself sees it";
}

}  // namespace
}  // namespace shoal::gpu
