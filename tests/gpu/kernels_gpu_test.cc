// Every op of the device's table beside the reference's, on device memory: all but matmul (matmul_gpu_test.cc),
// attention (attention_gpu_test.cc), and sampling with more than a draw (sample_gpu_test.cc). And main of them all:
// without a device it says so and ends with kNoDevice.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "common/base/rng.h"
#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/lost_device.h"
#include "tests/gpu/on_device.h"
#include "tests/kernels/dummy_pieces.h"

namespace shoal::gpu {
namespace {

struct UnderTest {
  std::unique_ptr<device::Device> device;
  std::unique_ptr<ops::Stream> host;
  uint64_t seed = 0;
  bool large = false;
};
UnderTest& State() {
  static UnderTest state;
  return state;
}

absl::StatusOr<std::unique_ptr<device::Device>> Open(ops::Numerics numerics) {
  auto accelerator = OpenAccelerator(numerics);
  if (!accelerator.ok()) return accelerator.status();
  const auto memory = (*accelerator)->Memory();
  if (!memory.ok()) return memory.status();
  State().large = memory->total >= kLargeDevice && !SmallSizes();
  return device::MakeAcceleratorDevice(std::move(*accelerator));
}

absl::Status Start() {
  auto device = Open(ops::Numerics::kInvariant);
  if (!device.ok()) return device.status();
  State().device = std::move(*device);
  State().host = ops::MakeCpuStream(std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 16));
  const char* seed = std::getenv("SEED");
  State().seed = seed != nullptr ? std::strtoull(seed, nullptr, 10) : std::random_device()() % 1000000;
  return absl::OkStatus();
}

TEST(GpuTable, ServesWhatTheDecoderAsksOf) {
  EXPECT_EQ(Table().acts, DType::kBF16);
  EXPECT_EQ(WeightTypes().size(), ops::AllDTypes().size() - 1);
  EXPECT_EQ(Table().quantise, nullptr);
  for (const DType t : WeightTypes()) EXPECT_FALSE(Table().quantises(t)) << Info(t).name;
  EXPECT_GT(Gpu().stream().threads(), 0);
}

TEST(GpuOps, EmbedReadsBackWhatWasPacked) {
  for (const DType t : WeightTypes()) {
    for (const auto& [n, dim] : Sized<std::vector<std::pair<int, int>>>({{1, 32}, {16, 96}, {37, 96}},
                                                                        {{37, 96}, {16001, 4096}, {5000, 8192}})) {
      SCOPED_TRACE(testing::Message() << Info(t).name << " " << n << " x " << dim);
      const DeviceMatrix table(t, n, dim, Seed() + 1);
      const auto scales = ops::RandomFloats(static_cast<size_t>(n), Seed() + 2);
      const Array<float> row_scale(scales);
      std::vector<int32_t> ids = {99, 100 + n, 100, 100 + n - 1};  // the first two are another shard's
      for (uint64_t i = 0; i < 13; ++i) ids.push_back(100 + static_cast<int32_t>(RandomBits(Seed(), 3, i) % n));
      const Array<int32_t> device_ids(ids);
      std::vector<int> rows;
      for (const int32_t id : ids) rows.push_back(std::clamp(id - 100, 0, n - 1));
      const auto width = static_cast<size_t>(dim);
      std::vector<float> expected = table.Values(rows);
      for (size_t i = 0; i < expected.size(); ++i) {
        const float value = expected[i] * scales[static_cast<size_t>(rows[i / width])];
        expected[i] = i < 2 * width ? 0 : value * 0.7f;
      }
      const ActArray x(expected.size());
      Call(Table().embed, ops::EmbedArgs{.table = table.view(row_scale.data()),
                                         .ids = device_ids.data(),
                                         .row_begin = 100,
                                         .scale = 0.7f,
                                         .x = x.acts(),
                                         .tokens = static_cast<int>(ids.size())});
      ops::ExpectSameBits(Rounded(expected), x.Floats());
    }
  }
}

TEST(GpuOps, IdsComeFromTheHostOrFromSamples) {
  const int count = Sized(70, 3000);
  std::vector<int32_t> tokens, places, sources, last(static_cast<size_t>(count), 3), expected, ids;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(i % 7 == 0 ? -1 : 10 + i);
    places.push_back(i % 5 == 0 ? -1 : count - 1 - i);
    const auto pick = static_cast<int32_t>(RandomBits(Seed(), 5, static_cast<uint64_t>(i)) % count);
    sources.push_back(i % 2 == 0 ? pick : ~pick);
  }
  expected = last;
  ids.resize(sources.size());
  CallReference(ops::RefTable().scatter_ids, ops::ScatterIdsArgs{tokens.data(), places.data(), expected.data(), count});
  CallReference(ops::RefTable().gather_ids, ops::GatherIdsArgs{sources.data(), expected.data(), ids.data(), count});
  const Array<int32_t> device_tokens(tokens), device_places(places), device_last(last), device_ids(sources);
  Call(Table().scatter_ids, ops::ScatterIdsArgs{device_tokens.data(), device_places.data(), device_last.data(), count});
  Call(Table().gather_ids, ops::GatherIdsArgs{device_ids.data(), device_last.data(), device_ids.data(), count});
  EXPECT_EQ(device_last.Get(), expected);
  EXPECT_EQ(device_ids.Get(), ids) << "in place";
  EXPECT_NE(expected, last);
}

TEST(GpuOps, GatherRowsIsTheReference) {
  for (const int dim : Sized<std::vector<int>>({8, 40}, {8, 4096, 8192})) {
    const int from = Sized(9, 700), count = Sized(5, 300);
    const auto x = RandomActs(static_cast<size_t>(from) * dim, Seed() + 6);
    std::vector<int32_t> rows;
    for (int i = 0; i < count; ++i) {
      rows.push_back(i == 0 ? from - 1 : static_cast<int32_t>(RandomBits(Seed(), 7, static_cast<uint64_t>(i)) % from));
    }
    std::vector<float> expected(static_cast<size_t>(count) * dim);
    CallReference(ops::RefTable().gather_rows, ops::GatherRowsArgs{x.data(), rows.data(), expected.data(), count, dim});
    const ActArray device_x(x), y(expected.size());
    const Array<int32_t> device_rows(rows);
    Call(Table().gather_rows, ops::GatherRowsArgs{device_x.in(), device_rows.data(), y.acts(), count, dim});
    ops::ExpectSameBits(expected, y.Floats());
  }
}

// Rows [tokens, dim], and others that may be joined to them.
struct NormCase {
  NormCase(int dim, uint64_t seed, float mean)
      : dim(dim), x(RandomActs(Size(), Seed() + seed)), add(RandomActs(Size(), Seed() + seed + 1)) {
    for (float& value : x) value = BF16ToF32(F32ToBF16(value + mean));
  }
  size_t Size() const { return static_cast<size_t>(tokens) * static_cast<size_t>(dim); }
  std::vector<float> Joined(bool join) const {
    std::vector<float> joined = x;
    for (size_t i = 0; i < joined.size() && join; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
    return joined;
  }
  const int tokens = Sized(5, 129), dim;
  std::vector<float> x, add;
};

// A norm of the device, whose `args` lack the rows: the joined x to the bit, `expected` of it, and rows alone.
template <typename Args>
void ExpectNorm(absl::Status (*op)(ops::Stream&, const Args&), Args args, const NormCase& c, bool join,
                const std::vector<float>& expected) {
  const auto width = static_cast<size_t>(c.dim);
  const ActArray x(c.x), add(c.add), y(c.Size()), alone_x(c.x), alone_y(c.Size());
  const auto enqueue = [&](const ActArray& in, const ActArray& out, size_t row, int tokens) {
    args.x = in.acts(row * width);
    if (join) args.add = add.in(row * width);
    args.y = out.acts(row * width);
    args.tokens = tokens;
    Call(op, args);
  };
  enqueue(x, y, 0, c.tokens);
  ops::ExpectSameBits(c.Joined(join), x.Floats());
  const auto got = y.Floats();
  ops::ExpectRowsNear(expected, got, width, kActTolerance);
  for (const int t : {0, c.tokens / 2, c.tokens - 1}) {
    const auto row = static_cast<size_t>(t);
    enqueue(alone_x, alone_y, row, 1);
    ops::ExpectSameBits(got.data() + row * width, alone_y.Floats().data() + row * width, width);
  }
}

TEST(GpuOps, RmsNormAgreesWithTheReferenceAndARowAlone) {
  for (const int dim : Sized<std::vector<int>>({8, 72, 576}, {72, 4096, 5120, 8192})) {
    const NormCase c(dim, 8, 0);
    const auto w = ops::RandomFloats(static_cast<size_t>(dim), Seed() + 10);
    const Array<float> device_w(w);
    for (const bool join : {false, true}) {
      SCOPED_TRACE(testing::Message() << dim << (join ? " joined" : ""));
      std::vector<float> joined = c.Joined(join), y(c.Size());
      ops::RmsNormArgs args = {joined.data(), nullptr, w.data(), y.data(), c.tokens, dim, 1e-5f, 1.0f};
      CallReference(ops::RefTable().rms_norm, args);
      args.w = device_w.data();
      ExpectNorm(Table().rms_norm, args, c, join, y);
    }
  }
}

TEST(GpuOps, LayerNormAgreesWithTheReferenceAndARowAlone) {
  for (const int dim : Sized<std::vector<int>>({8, 72, 576}, {72, 4096, 5120, 8192})) {
    const NormCase c(dim, 22, 3);  // a mean to subtract
    const auto width = static_cast<size_t>(dim);
    const auto w = ops::RandomFloats(width, Seed() + 24), bias = ops::RandomFloats(width, Seed() + 25);
    const Array<float> device_w(w), device_bias(bias);
    for (const bool join : {false, true}) {
      SCOPED_TRACE(testing::Message() << dim << (join ? " joined, with bias" : ""));
      std::vector<float> joined = c.Joined(join), y(c.Size());
      ops::LayerNormArgs args = {joined.data(), nullptr, w.data(), nullptr, y.data(), c.tokens, dim, 1e-5f};
      if (join) args.bias = bias.data();
      CallReference(ops::RefTable().layer_norm, args);
      args.w = device_w.data();
      if (join) args.bias = device_bias.data();
      ExpectNorm(Table().layer_norm, args, c, join, y);
    }
  }
}

TEST(GpuOps, NormsWithoutAWeightOnlyJoin) {
  const int tokens = Sized(3, 129), dim = Sized(72, 8192);
  const auto size = static_cast<size_t>(tokens * dim);
  const auto x = RandomActs(size, Seed() + 26), add = RandomActs(size, Seed() + 27);
  std::vector<float> joined(size);
  for (size_t i = 0; i < size; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
  const ActArray rms(x), layer(x), da(add), y(size);
  Call(Table().rms_norm, ops::RmsNormArgs{rms.acts(), da.in(), nullptr, y.acts(), tokens, dim, 1e-5f, 0});
  Call(Table().layer_norm, ops::LayerNormArgs{layer.acts(), da.in(), nullptr, nullptr, y.acts(), tokens, dim, 1e-5f});
  ops::ExpectSameBits(joined, rms.Floats());
  ops::ExpectSameBits(joined, layer.Floats());
  const auto untouched = y.Floats();
  EXPECT_TRUE(std::all_of(untouched.begin(), untouched.end(), [](float v) { return std::isnan(v); }));
}

// Rows of q, k, v side by side, and a cache in which only the slots are written.
struct RopeCase {
  int heads, kv_heads, dim, rot, tokens, block, blocks;
};
void ExpectRope(const RopeCase& c, bool by_row, bool interleaved) {
  const int row = (c.heads + 2 * c.kv_heads) * c.dim, slots_count = c.block * c.blocks;
  const auto tokens = static_cast<size_t>(c.tokens);
  const auto x = RandomActs(tokens * row, Seed() + 11);
  const size_t half = static_cast<size_t>(c.rot) / 2, angle_rows = std::max<size_t>(tokens, 20);
  const auto cos = ops::RandomFloats(angle_rows * half, Seed() + 12);
  const auto sin = ops::RandomFloats(angle_rows * half, Seed() + 13);
  std::vector<int32_t> angles;
  std::vector<int64_t> slots;
  for (size_t t = 0; t < tokens; ++t) {
    angles.push_back(static_cast<int32_t>(RandomBits(Seed(), 14, t) % angle_rows));
    // 7 is prime to the number of slots: all differ.
    slots.push_back(t % 6 == 2 ? -1 : static_cast<int64_t>(t * 7 + 3) % slots_count);
  }
  const size_t cache_size = static_cast<size_t>(slots_count) * c.kv_heads * c.dim;
  std::vector<uint16_t> expected(2 * cache_size, 0xffff);
  std::vector<float> rotated = x;
  ops::RopeKvArgs args = {
      .q = rotated.data(),
      .k = x.data() + c.heads * c.dim,
      .v = x.data() + (c.heads + c.kv_heads) * c.dim,
      .q_stride = row,
      .kv_stride = row,
      .cos = cos.data(),
      .sin = sin.data(),
      .angles = by_row ? nullptr : angles.data(),
      .slots = slots.data(),
      .cache = {expected.data(), expected.data() + cache_size, DType::kBF16, c.block, c.kv_heads, c.dim},
      .tokens = c.tokens,
      .q_heads = c.heads,
      .rot_dim = c.rot,
      .interleaved = interleaved};
  CallReference(ops::RefTable().rope_kv, args);
  const ActArray dx(x);
  const Array<uint16_t> cache(expected.size());
  const Array<float> device_cos(cos), device_sin(sin);
  const Array<int32_t> device_angles(angles);
  const Array<int64_t> device_slots(slots);
  args.q = dx.acts();
  args.k = dx.in(static_cast<size_t>(c.heads * c.dim));
  args.v = dx.in(static_cast<size_t>((c.heads + c.kv_heads) * c.dim));
  args.cos = device_cos.data();
  args.sin = device_sin.data();
  args.angles = by_row ? nullptr : device_angles.data();
  args.slots = device_slots.data();
  args.cache.k = cache.data();
  args.cache.v = cache.data() + cache_size;
  Call(Table().rope_kv, args);
  ops::ExpectSameBits(Rounded(rotated), dx.Floats());
  EXPECT_EQ(cache.Get(), expected);
  EXPECT_NE(rotated, x);
}

TEST(GpuOps, RopeKvIsTheReference) {
  for (const RopeCase& c : Sized<std::vector<RopeCase>>(
           {{3, 2, 48, 32, 6, 16, 2}, {2, 1, 64, 64, 9, 32, 1}},
           {{3, 2, 48, 32, 6, 16, 2}, {32, 8, 128, 128, 300, 16, 64}, {64, 8, 128, 64, 65, 32, 16}})) {
    for (const bool by_row : {false, true}) {
      for (const bool interleaved : {false, true}) {
        SCOPED_TRACE(testing::Message() << c.heads << " heads of " << c.dim << (by_row ? " by row" : "")
                                        << (interleaved ? " interleaved" : ""));
        ExpectRope(c, by_row, interleaved);
      }
    }
  }
}

TEST(GpuOps, GluWritesOverItsGate) {
  for (const ops::Activation activation :
       {ops::Activation::kSilu, ops::Activation::kGeluTanh, ops::Activation::kGelu}) {
    for (const int dim : Sized<std::vector<int>>({32, 328}, {328, 14336, 28672})) {
      const int tokens = Sized(3, 65);
      const auto size = static_cast<size_t>(tokens) * dim;
      const auto gate = RandomActs(size, Seed() + 15, 2), up = RandomActs(size, Seed() + 16);
      std::vector<float> expected(size);
      CallReference(ops::RefTable().glu,
                    ops::GluArgs{gate.data(), up.data(), expected.data(), tokens, dim, activation});
      const ActArray dg(gate), du(up);
      Call(Table().glu, ops::GluArgs{dg.in(), du.in(), dg.acts(), tokens, dim, activation});
      ops::ExpectRowsNear(expected, dg.Floats(), static_cast<size_t>(dim), kActTolerance);
    }
  }
}

TEST(GpuOps, SampleIsTheReference) {
  for (const int vocab : Sized<std::vector<int>>({1003, 32}, {1003, 128256, 152064})) {
    const uint32_t count = Sized(24u, 64u);
    const auto logits = ops::RandomFloats(size_t{count} * vocab, Seed() + 17, 3);
    std::vector<ops::SampleRow> params;
    for (uint32_t r = 0; r < count; ++r) {
      params.push_back({.temperature = r % 3 == 0 ? 0 : 0.5f + static_cast<float>(r % 24) * 0.1f,
                        .top_k = r % 8 == 7   ? -1
                                 : r % 4 == 0 ? 20
                                              : 0,
                        .top_p = r % 2 == 0 ? 0.9f : 1,
                        .min_p = r % 5 == 0 ? 0.05f : 0,
                        .uniform = SamplingUniform(Seed(), 0, r, 0)});
    }
    std::vector<int32_t> expected(count);
    ops::SampleArgs args = {logits.data(), vocab, params.data(), expected.data(), static_cast<int>(count), vocab};
    CallReference(ops::RefTable().sample, args);
    const Array<float> device_logits(logits);
    const Array<ops::SampleRow> device_params(params);
    const Array<int32_t> tokens(count);
    args = {device_logits.data(), vocab, device_params.data(), tokens.data(), static_cast<int>(count), vocab};
    Call(Table().sample, args);
    // A draw within 5e-7 of a border between tokens may fall to its other side (kernels/cuda/sample.h): once in some
    // ten thousand runs.
    EXPECT_EQ(tokens.Get(), expected);
    EXPECT_EQ(expected[7], -1) << "padding";
    EXPECT_GT(std::set<int32_t>(expected.begin(), expected.end()).size(), 8u) << "trivial choices";
  }
}

TEST(GpuOps, SampleGivesRowsWithoutAFiniteLogitNoToken) {
  constexpr int kVocab = 515;
  std::vector<float> logits = ops::RandomFloats(4 * kVocab, Seed() + 18);
  const float inf = std::numeric_limits<float>::infinity();
  logits[3] = std::nanf("");
  logits[kVocab + 514] = inf;
  std::fill(logits.begin() + 2 * kVocab, logits.begin() + 3 * kVocab, -inf);
  std::fill(logits.begin() + 3 * kVocab, logits.end() - 1, -inf);
  for (const float temperature : {0.0f, 1.0f}) {
    const Array<float> device_logits(logits);
    const Array<ops::SampleRow> params(std::vector<ops::SampleRow>(4, {.temperature = temperature, .uniform = 0.5f}));
    const Array<int32_t> tokens(4);
    Call(Table().sample, ops::SampleArgs{device_logits.data(), kVocab, params.data(), tokens.data(), 4, kVocab});
    EXPECT_EQ(tokens.Get(), (std::vector<int32_t>{-1, -1, -1, kVocab - 1}));
  }
}

TEST(GpuOps, CopyBlocksIsTheReference) {
  const int heads = Sized(3, 8), dim = Sized(16, 128), blocks = Sized(6, 64);
  const std::vector<ops::BlockPair> pairs = {{0, 1}, {1, 2}, {5, 0}, {2, blocks - 1}};
  const size_t half = static_cast<size_t>(blocks) * 16 * heads * dim;
  std::vector<uint16_t> cache(2 * half);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<uint16_t>(RandomBits(Seed(), 19, i));
  const Array<uint16_t> device_cache(cache);
  const Array<ops::BlockPair> device_pairs(pairs);
  ops::CopyBlocksArgs args = {{cache.data(), cache.data() + half, DType::kBF16, 16, heads, dim}, pairs.data(), 4};
  const auto before = cache;
  CallReference(ops::RefTable().copy_blocks, args);
  args.cache.k = device_cache.data();
  args.cache.v = device_cache.data() + half;
  args.pairs = device_pairs.data();
  Call(Table().copy_blocks, args);
  EXPECT_EQ(device_cache.Get(), cache);
  EXPECT_NE(before, cache);
}

TEST(GpuOps, ChecksumTellsEveryBitAndItsPlace) {
  const size_t words = Sized<size_t>(5003, 40000003);
  std::vector<uint32_t> data(words);
  for (size_t i = 0; i < words; ++i) data[i] = static_cast<uint32_t>(i * 2654435761u + Seed());
  Array<uint32_t> on_device(data);
  const auto sums = [&] {
    const Array<uint64_t> out(ops::kChecksumParts);
    Call(Table().checksum, ops::ChecksumArgs{on_device.data(), static_cast<int64_t>(words * 4), out.data()});
    return out.Get();
  };
  const auto first = sums();
  EXPECT_EQ(sums(), first) << "the order of threads shows";
  for (const size_t at : {size_t{0}, words / 2, words - 1}) {
    data[at] ^= 1u << (at % 32);
    on_device.Set(data);
    EXPECT_NE(sums(), first) << "word " << at;
    data[at] ^= 1u << (at % 32);
  }
  std::swap(data[1], data[words - 2]);
  on_device.Set(data);
  EXPECT_NE(sums(), first) << "two words changed places";
}

TEST(GpuOps, SumRanksIsTheReference) {
  for (const int ranks : {1, 2, 4, 8}) {
    const auto count = Sized<size_t>(333, 128 * 8192 + 3), stride = count + 5;
    const auto parts = RandomActs(stride * ranks, Seed() + 20);
    std::vector<float> expected(count);
    CallReference(ops::RefTable().sum_ranks, ops::SumRanksArgs{parts.data(), static_cast<int64_t>(stride), ranks,
                                                               expected.data(), static_cast<int64_t>(count)});
    const ActArray dp(parts), y(count);
    Call(Table().sum_ranks,
         ops::SumRanksArgs{dp.in(), static_cast<int64_t>(stride), ranks, y.acts(), static_cast<int64_t>(count)});
    ops::ExpectSameBits(Rounded(expected), y.Floats());
  }
}

TEST(GpuOps, PlaceColumnsIsTheReference) {
  const int rows = Sized(5, 64), width = Sized(37, 16032), stride = 4 * width + 1;
  const auto x = ops::RandomFloats(static_cast<size_t>(rows * width), Seed() + 21);
  const Array<float> dx(x), y(static_cast<size_t>(rows * stride));
  std::vector<float> expected = y.Get();
  ops::PlaceColumnsArgs args = {x.data(), expected.data() + width, stride, rows, width};
  CallReference(ops::RefTable().place_columns, args);
  args.x = dx.data();
  args.y = y.data() + width;
  Call(Table().place_columns, args);
  ops::ExpectSameBits(expected, y.Get());
}

// Of the pieces that the host's tests have, and of a layer of a 70B model.
TEST(GpuOps, DummyMatrixIsWhatTheHostMakes) {
  std::vector<ops::DummyMatrixArgs> cases;
  for (const ops::DummyPiece& piece : ops::DummyPieces()) {
    if (Table().supports(piece.args.tensor.type) || piece.args.tensor.type == DType::kF32) cases.push_back(piece.args);
  }
  for (const DType type : WeightTypes()) {
    const DummyKind kind = IsByte(type) ? DummyKind::kScaledWeight : DummyKind::kWeight;
    cases.push_back({.tensor = {Seed(), 22, type, kind},
                     .columns = Sized(512, 28672),
                     .row_begin = 7,
                     .column_begin = Sized(64, 4096),
                     .n = Sized(100, 8192),
                     .k = Sized(416, 14336),
                     .data = nullptr});
  }
  for (ops::DummyMatrixArgs args : cases) {
    SCOPED_TRACE(testing::Message() << args);
    std::vector<uint8_t> expected(Table().packed_bytes(args.tensor.type, args.n, args.k));
    const Array<uint8_t> made(expected.size());
    args.data = made.data();
    const auto begin = std::chrono::steady_clock::now();
    Call(Table().dummy_matrix, args);
    const auto got = made.Get();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    args.data = expected.data();
    const absl::Status on_host = ops::DummyMatrixOnHost(Host(), args, Table());
    ASSERT_TRUE(on_host.ok()) << on_host;
    EXPECT_TRUE(got == expected);
    if (expected.size() < (64 << 20)) continue;
    std::printf("dummy %s: %.0f MB made and fetched in %.1f ms\n", std::string(Info(args.tensor.type).name).c_str(),
                static_cast<double>(expected.size()) / 1e6, taken.count() * 1e3);
  }
}

}  // namespace

device::Device& Gpu() { return *State().device; }
UseNumerics::UseNumerics(ops::Numerics numerics) {
  auto device = Open(numerics);
  status_ = device.status();
  if (!device.ok()) return;
  before_ = std::exchange(State().device, std::move(*device));
}
UseNumerics::~UseNumerics() {
  if (before_ != nullptr) State().device = std::move(before_);
}
bool Large() { return State().large; }
uint64_t Seed() { return State().seed * 1000; }
ops::Stream& Host() { return *State().host; }

}  // namespace shoal::gpu

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const absl::Status started = shoal::gpu::Start();
  if (!started.ok()) return shoal::gpu::ReportNotOpened(started);
  std::printf("%s\nSEED=%llu\n", shoal::gpu::DescribeDevice().c_str(),
              static_cast<unsigned long long>(shoal::gpu::Seed() / 1000));
  testing::AddGlobalTestEnvironment(shoal::gpu::CheckCalls().release());
  testing::UnitTest::GetInstance()->listeners().Append(new shoal::gpu::EndsWithItsDevice);
  const int result = RUN_ALL_TESTS();
  shoal::gpu::State() = {};
  return result;
}
