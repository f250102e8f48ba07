// The op table beside the reference's, all ops but attention (table_attention_test.cc).
#include "kernels/cuda/table.h"

#include <set>

#include "common/base/rng.h"
#include "kernels/cuda/queue_stream.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr float kTolerance = 8e-3f;  // of a row's largest: results are bf16

std::vector<DType> Types() {
  std::vector<DType> types = ops::AllDTypes();
  std::erase_if(types, [](DType t) { return !Table().supports(t); });
  return types;
}

ops::Acts ActsOf(Buffer<bf16>& b) { return ops::Acts(static_cast<void*>(b.data())); }

// Calls an op of the device's table, whose queue runs at once.
template <typename Fn, typename Args>
void Call(Fn op, const Args& args) {
  QueueStream stream(nullptr, 4);
  const absl::Status status = op(stream, args);
  EXPECT_TRUE(status.ok()) << status;
}
// An op of the reference.
template <typename Fn, typename Args>
void CallReference(Fn op, const Args& args) {
  const auto stream = ops::MakeCpuStream(1);
  EXPECT_TRUE(op(*stream, args).ok());
}

std::vector<float> Rounded(std::vector<float> values) {
  for (float& v : values) v = BF16ToF32(F32ToBF16(v));
  return values;
}

TEST(CudaTable, ServesWhatTheDecoderAsksOf) {
  EXPECT_EQ(Table().acts, DType::kBF16);
  EXPECT_EQ(Types().size(), ops::AllDTypes().size() - 1);
  EXPECT_FALSE(Table().supports(DType::kF32));
  for (const DType t : ops::AllDTypes()) EXPECT_FALSE(Table().quantises(t));
  for (const DType t : Types()) {
    EXPECT_LE(Table().packed_bytes(t, 512, 576), RowBytes(t, 576) * 512 * 102 / 100) << "packing wastes memory";
  }
}

TEST(CudaTable, EmbedReadsBackWhatWasPacked) {
  for (const DType t : Types()) {
    for (const int n : {1, 16, 37}) {
      SCOPED_TRACE(testing::Message() << Info(t).name << " x " << n);
      constexpr int kDim = 96;
      const auto canonical = ops::RandomWeight(t, n, kDim, 3);
      const auto table = ops::Pack(Table(), t, canonical, n, kDim);
      const auto reference = ops::Pack(ops::RefTable(), t, canonical, n, kDim);
      std::vector<int32_t> ids;
      for (int i = n + 1; i >= -1; --i) ids.push_back(100 + i);
      std::vector<float> expected(ids.size() * kDim);
      Buffer<bf16> x(expected.size());
      ops::EmbedArgs args = {reference.view, ids.data(), 100, 0.7f, expected.data(), static_cast<int>(ids.size())};
      CallReference(ops::RefTable().embed, args);
      args.table = table.view;
      args.x = ActsOf(x);
      Call(Table().embed, args);
      ops::ExpectSameBits(Rounded(expected), x.Floats());
    }
  }
}

TEST(CudaTable, IdsComeFromTheHostOrFromSamples) {
  const std::vector<int32_t> tokens = {7, -1, 9, 11}, places = {2, 0, -1, 5}, sources = {40, ~2, ~0, 41, ~5};
  std::vector<int32_t> last(6, 3), ids(5);
  Call(Table().scatter_ids, ops::ScatterIdsArgs{tokens.data(), places.data(), last.data(), 4});
  EXPECT_EQ(last, (std::vector<int32_t>{0, 3, 7, 3, 3, 11}));
  Call(Table().gather_ids, ops::GatherIdsArgs{sources.data(), last.data(), ids.data(), 5});
  EXPECT_EQ(ids, (std::vector<int32_t>{40, 7, 0, 41, 11}));
}

TEST(CudaTable, GatherRowsIsTheReference) {
  constexpr int kDim = 40;
  const auto x = RandomBf16(9 * kDim, 1);
  const std::vector<int32_t> rows = {8, 0, 3, 3, 7};
  std::vector<float> expected(rows.size() * kDim);
  Buffer<bf16> from(x), to(expected.size());
  CallReference(ops::RefTable().gather_rows, ops::GatherRowsArgs{x.data(), rows.data(), expected.data(), 5, kDim});
  Call(Table().gather_rows, ops::GatherRowsArgs{ActsOf(from), rows.data(), ActsOf(to), 5, kDim});
  ops::ExpectSameBits(expected, to.Floats());
}

TEST(CudaTable, RmsNormAgreesWithTheReference) {
  constexpr int kTokens = 5;
  for (const int dim : {8, 72, 576}) {
    const auto size = static_cast<size_t>(kTokens * dim);
    const auto x = RandomBf16(size, 1), add = RandomBf16(size, 2), w = ops::RandomFloats(static_cast<size_t>(dim), 3);
    for (const bool join : {false, true}) {
      std::vector<float> joined = x, y(size);
      for (size_t i = 0; i < size && join; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
      ops::RmsNormArgs args = {joined.data(), nullptr, w.data(), y.data(), kTokens, dim, 1e-5f, 1.0f};
      CallReference(ops::RefTable().rms_norm, args);
      Buffer<bf16> dx(x), da(add), dy(size);
      args.x = ActsOf(dx);
      if (join) args.add = ActsOf(da);
      args.y = ActsOf(dy);
      Call(Table().rms_norm, args);
      ops::ExpectSameBits(joined, dx.Floats());
      ops::ExpectRowsNear(y, dy.Floats(), static_cast<size_t>(dim), kTolerance);
    }
  }
}

TEST(CudaTable, RmsNormWithoutWeightOnlyJoins) {
  const auto x = RandomBf16(64, 1), add = RandomBf16(64, 2);
  Buffer<bf16> dx(x), da(add);
  Call(Table().rms_norm, ops::RmsNormArgs{ActsOf(dx), ActsOf(da), nullptr, nullptr, 2, 32, 1e-5f, 0});
  std::vector<float> joined(64);
  for (size_t i = 0; i < 64; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
  ops::ExpectSameBits(joined, dx.Floats());
  EXPECT_NE(joined, x);
}

// Weights of several types that share x. The reference multiplies what they stand for in f32: on the device no type
// rounds x further.
struct Product {
  static constexpr int kK = 96;
  struct Part {
    DType type;
    int n;
  };
  Product(const std::vector<Part>& parts, int tokens, bool f32_out) : parts(parts), tokens(tokens), f32_out(f32_out) {
    for (size_t p = 0; p < parts.size(); ++p) {
      canonical.push_back(ops::RandomWeight(parts[p].type, parts[p].n, kK, 10 + p));
      packed.push_back(ops::Pack(Table(), parts[p].type, canonical[p], parts[p].n, kK));
      row_scale.push_back(ops::RandomFloats(static_cast<size_t>(parts[p].n), 20 + p));
      bias.push_back(ops::RandomFloats(static_cast<size_t>(parts[p].n), 30 + p, 10));
      if (p > 0) packed[p].view.row_scale = row_scale[p].data();
      if (p != 1) packed[p].view.bias = bias[p].data();
    }
  }
  // y of part p, [tokens, n], of rows [begin, begin + count) of x.
  std::vector<std::vector<float>> OnDevice(const std::vector<float>& x, int begin, int count) const {
    Buffer<bf16> dx({x.begin() + begin * kK, x.begin() + (begin + count) * kK});
    ops::MatmulArgs args = {
        .x = ActsOf(dx), .xq = nullptr, .parts = {}, .part_count = 0, .tokens = count, .k = kK, .f32_out = f32_out};
    std::vector<Buffer<bf16>> y;
    std::vector<Buffer<float>> logits;
    for (const Part& p : parts) {
      const auto stride = static_cast<size_t>(p.n) + 3;  // that of no vector
      y.emplace_back(stride * static_cast<size_t>(count));
      logits.emplace_back(stride * static_cast<size_t>(count));
      args.parts[args.part_count] = {packed[static_cast<size_t>(args.part_count)].view,
                                     f32_out ? ops::Acts(logits.back().data()) : ActsOf(y.back()),
                                     static_cast<int64_t>(stride)};
      ++args.part_count;
    }
    Call(Table().matmul, args);
    std::vector<std::vector<float>> out;
    for (size_t p = 0; p < parts.size(); ++p) {
      const int n = parts[p].n;
      out.push_back(ops::RowsOfStride(f32_out ? logits[p].Floats() : y[p].Floats(), n, n + 3));
    }
    return out;
  }
  std::vector<float> Expected(const std::vector<float>& x, size_t p) const {
    const int n = parts[p].n;
    std::vector<float> w(static_cast<size_t>(n * kK)), y(static_cast<size_t>(tokens * n));
    DequantiseRow(parts[p].type, canonical[p].data(), n * kK, w.data());
    ops::MatmulArgs args = {.x = x.data(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens, .k = kK};
    args.parts[0] = {{w.data(), DType::kF32, n, kK, packed[p].view.row_scale, packed[p].view.bias}, y.data(), n};
    CallReference(ops::RefTable().matmul, args);
    return y;
  }
  const std::vector<Part> parts;
  const int tokens;
  const bool f32_out;
  std::vector<std::vector<uint8_t>> canonical;
  std::vector<ops::PackedWeight> packed;
  std::vector<std::vector<float>> row_scale, bias;
};

TEST(CudaTable, MatmulAgreesWithTheReference) {
  const std::vector<std::vector<Product::Part>> calls = {
      {{DType::kBF16, 48}, {DType::kF16, 17}, {DType::kQ8_0, 33}, {DType::kBF16, 0}},  // no rows on this rank
      {{DType::kQ4_0, 1}, {DType::kQ4_1, 100}, {DType::kI4, 45}},
      {{DType::kI8, 20}, {DType::kF8E4M3, 50}, {DType::kI8, 33}, {DType::kF8E4M3, 9}},
      {{DType::kBF16, 200}}};
  for (const auto& parts : calls) {
    for (const int tokens : {1, 3, 17, 70}) {
      for (const bool f32_out : {false, true}) {
        const Product product(parts, tokens, f32_out);
        const auto x = RandomBf16(static_cast<size_t>(tokens * Product::kK), 8);
        const auto got = product.OnDevice(x, 0, tokens);
        for (size_t p = 0; p < parts.size(); ++p) {
          if (parts[p].n == 0) continue;
          SCOPED_TRACE(testing::Message() << Info(parts[p].type).name << " " << parts[p].n << " tokens " << tokens);
          // A row of one value may be small by chance: taken together.
          const size_t row = static_cast<size_t>(parts[p].n == 1 ? tokens : parts[p].n);
          ops::ExpectRowsNear(product.Expected(x, p), got[p], row, f32_out ? 1e-4f : kTolerance);
        }
        const int last = tokens - 1;
        const auto alone = product.OnDevice(x, last, 1);
        for (size_t p = 0; p < parts.size(); ++p) {
          ops::ExpectSameBits(alone[p].data(), got[p].data() + last * parts[p].n, static_cast<size_t>(parts[p].n));
        }
      }
    }
  }
}

TEST(CudaTable, ATableThatIsTheHeadTooIsHeldOnce) {
  for (const DType t : Types()) {
    const auto canonical = ops::RandomWeight(t, 40, 64, 4);
    const auto packed = ops::Pack(Table(), t, canonical, 40, 64);
    const std::vector<int32_t> ids = {39};
    Buffer<bf16> x(64);
    Buffer<float> y(40);
    Call(Table().embed, ops::EmbedArgs{packed.view, ids.data(), 0, 1, ActsOf(x), 1});
    ops::MatmulArgs args = {
        .x = ActsOf(x), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = 1, .k = 64, .f32_out = true};
    args.parts[0] = {packed.view, ops::Acts(y.data()), 40};
    Call(Table().matmul, args);
    const std::vector<float> logits = y.Floats();
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), 39) << Info(t).name;
  }
}

TEST(CudaTable, RopeKvIsTheReference) {
  constexpr int kHeads = 3, kKvHeads = 2, kDim = 48, kRot = 32, kTokens = 6, kRow = (kHeads + 2 * kKvHeads) * kDim;
  constexpr size_t kCache = 2 * 16 * kKvHeads * kDim;
  const auto x = RandomBf16(kTokens * kRow, 1), angle = ops::RandomFloats(20 * kRot, 2);
  const std::vector<int32_t> angles = {3, 19, 0, 7, 7, 1};
  const std::vector<int64_t> slots = {0, 31, -1, 17, 4, 5};
  for (const bool by_row : {false, true}) {
    auto rotated = x;
    Buffer<bf16> dx(x), cache(2 * kCache), expected(2 * kCache);
    Buffer<float> cos(std::vector<float>(angle.begin(), angle.begin() + 20 * kRot / 2));
    Buffer<float> sin(std::vector<float>(angle.begin() + 20 * kRot / 2, angle.end()));
    ops::RopeKvArgs args = {.q = rotated.data(),
                            .k = x.data() + kHeads * kDim,
                            .v = x.data() + (kHeads + kKvHeads) * kDim,
                            .q_stride = kRow,
                            .kv_stride = kRow,
                            .cos = cos.data(),
                            .sin = sin.data(),
                            .angles = by_row ? nullptr : angles.data(),
                            .slots = slots.data(),
                            .cache = {expected.data(), expected.data() + kCache, DType::kBF16, 16, kKvHeads, kDim},
                            .tokens = kTokens,
                            .q_heads = kHeads,
                            .rot_dim = kRot,
                            .interleaved = false};
    CallReference(ops::RefTable().rope_kv, args);
    args.q = ActsOf(dx);
    args.k = ops::ConstActs(static_cast<const void*>(dx.data() + kHeads * kDim));
    args.v = ops::ConstActs(static_cast<const void*>(dx.data() + (kHeads + kKvHeads) * kDim));
    args.cache.k = cache.data();
    args.cache.v = cache.data() + kCache;
    Call(Table().rope_kv, args);
    ops::ExpectSameBits(Rounded(rotated), dx.Floats());
    EXPECT_EQ(std::memcmp(cache.data(), expected.data(), 2 * kCache * sizeof(bf16)), 0);
    EXPECT_NE(rotated, x);
  }
}

TEST(CudaTable, GluWritesOverItsGate) {
  for (const ops::Activation activation :
       {ops::Activation::kSilu, ops::Activation::kGeluTanh, ops::Activation::kGelu}) {
    constexpr int kTokens = 3, kDim = 328;
    const auto gate = RandomBf16(kTokens * kDim, 1, 2), up = RandomBf16(kTokens * kDim, 2);
    std::vector<float> expected(gate.size());
    Buffer<bf16> dg(gate), du(up);
    ops::GluArgs args = {gate.data(), up.data(), expected.data(), kTokens, kDim, activation};
    CallReference(ops::RefTable().glu, args);
    args.gate = args.y = ActsOf(dg);
    args.up = ActsOf(du);
    Call(Table().glu, args);
    ops::ExpectRowsNear(expected, dg.Floats(), kDim, kTolerance);
  }
}

TEST(CudaTable, GluWithoutUpIsTheActivationAlone) {
  constexpr int kTokens = 3, kDim = 96;
  const auto gate = RandomBf16(kTokens * kDim, 1, 2);
  std::vector<float> expected(gate.size());
  Buffer<bf16> dg(gate);
  ops::GluArgs args = {gate.data(), nullptr, expected.data(), kTokens, kDim, ops::Activation::kGelu};
  CallReference(ops::RefTable().glu, args);
  args.gate = args.y = ActsOf(dg);
  Call(Table().glu, args);
  ops::ExpectRowsNear(expected, dg.Floats(), kDim, kTolerance);
}

// From logits to what tokens get, beside the reference on what the weights stand for; and each part's rows are those of
// matmul with that expert's matrix, to the bit.
TEST(CudaTable, ExpertsAgreeWithTheReference) {
  constexpr int kTokens = 9, kExperts = 6, kUsed = 2, kRows = kTokens * kUsed, kN = 40, kK = 96;
  for (const DType t : Types()) {
    SCOPED_TRACE(Info(t).name);
    const auto logits = ops::RandomFloats(kTokens * kExperts, 1, 2), factors = ops::RandomFloats(kExperts * kN, 2);
    const auto stride = static_cast<int64_t>((Table().packed_bytes(t, kN, kK) + 63) / 64 * 64);
    Buffer<uint8_t> packed(static_cast<size_t>(stride * kExperts));
    std::vector<float> values(static_cast<size_t>(kExperts * kN * kK));
    for (int e = 0; e < kExperts; ++e) {
      const auto canonical = ops::RandomWeight(t, kN, kK, 10 + static_cast<uint64_t>(e));
      Table().pack_rows(t, canonical.data(), 0, kN, kN, kK, packed.data() + e * stride);
      DequantiseRow(t, canonical.data(), kN * kK, values.data() + e * kN * kK);
    }
    std::vector<float> weights(kRows);
    std::vector<int32_t> sorted(kRows), tokens(kRows), first(kExperts + 1);
    Call(Table().route, ops::RouteArgs{logits.data(),
                                       {weights.data(), sorted.data(), tokens.data(), first.data()},
                                       kTokens,
                                       kExperts,
                                       kUsed,
                                       true});
    const auto x = RandomBf16(kTokens * kK, 3);
    Buffer<bf16> dx(x), gathered(kRows * kK), y(kRows * kN), joined(kTokens * kN);
    Call(Table().gather_rows, ops::GatherRowsArgs{ActsOf(dx), tokens.data(), ActsOf(gathered), kRows, kK});
    const ops::Weight of_first = {packed.data(), t, kN, kK, factors.data(), factors.data()};
    ops::ExpertMatmulArgs args = {ActsOf(gathered), nullptr, {}, 1, first.data(), kRows, kK, kExperts};
    args.parts[0] = {{of_first, stride}, ActsOf(y)};
    Call(Table().expert_matmul, args);
    std::vector<float> expected(kRows * kN), rows = gathered.Floats();
    ops::ExpertMatmulArgs on_host = args;
    on_host.x = rows.data();
    on_host.parts[0] = {{{values.data(), DType::kF32, kN, kK, factors.data(), factors.data()}, kN * kK * 4},
                        expected.data()};
    CallReference(ops::RefTable().expert_matmul, on_host);
    ops::ExpectRowsNear(expected, y.Floats(), kN, kTolerance);
    for (int row = 0; row < kRows; ++row) {
      const auto e = std::upper_bound(first.begin(), first.end(), row) - first.begin() - 1;
      Buffer<bf16> alone(kN);
      ops::MatmulArgs one = {.x = ops::ConstActs(static_cast<const void*>(gathered.data() + row * kK)),
                             .xq = nullptr,
                             .parts = {},
                             .part_count = 1,
                             .tokens = 1,
                             .k = kK};
      one.parts[0] = {ops::WeightOf({of_first, stride}, e), ActsOf(alone), kN};
      Call(Table().matmul, one);
      EXPECT_EQ(std::memcmp(alone.data(), y.data() + row * kN, kN * sizeof(bf16)), 0) << "row " << row;
    }
    Call(Table().join_experts,
         ops::JoinExpertsArgs{ActsOf(y), weights.data(), sorted.data(), ActsOf(joined), kTokens, kUsed, kN});
    std::vector<float> sums(kTokens * kN), products = y.Floats();
    CallReference(ops::RefTable().join_experts, ops::JoinExpertsArgs{products.data(), weights.data(), sorted.data(),
                                                                     sums.data(), kTokens, kUsed, kN});
    ops::ExpectSameBits(Rounded(sums), joined.Floats());
  }
}

TEST(CudaTable, ExpertsPartsAreOfOneKind) {
  Buffer<bf16> x(64);
  const int32_t first[] = {0, 1};
  ops::ExpertMatmulArgs args = {ActsOf(x), nullptr, {}, 2, first, 1, 32, 1};
  args.parts[0] = {{{x.data(), DType::kBF16, 8, 32}, 512}, ActsOf(x)};
  args.parts[1] = {{{x.data(), DType::kI8, 8, 32}, 512}, ActsOf(x)};
  QueueStream stream(nullptr, 4);
  EXPECT_EQ(Table().expert_matmul(stream, args).code(), absl::StatusCode::kInvalidArgument);
}

TEST(CudaTable, SoftCapIsTheReference) {
  auto logits = ops::RandomFloats(1003, 1, 40);
  Buffer<float> y(logits);
  CallReference(ops::RefTable().soft_cap, ops::SoftCapArgs{logits.data(), 1003, 0.5f, 30});
  Call(Table().soft_cap, ops::SoftCapArgs{y.data(), 1003, 0.5f, 30});
  ops::ExpectRowsNear(logits, y.Floats(), 1003, 1e-6f);
}

TEST(CudaTable, PoolAgreesWithTheReference) {
  constexpr int kDim = 72;
  const auto x = RandomBf16(12 * kDim, 1);
  const std::vector<int32_t> first = {0, 3, 4}, rows = {3, 1, 8};
  for (const ops::Pooling pooling : {ops::Pooling::kFirst, ops::Pooling::kLast, ops::Pooling::kMean}) {
    std::vector<float> expected(3 * kDim);
    Buffer<bf16> dx(x);
    Buffer<float> y(expected.size());
    ops::PoolArgs args = {x.data(), first.data(), rows.data(), expected.data(), 3, kDim, pooling, true};
    CallReference(ops::RefTable().pool, args);
    args.x = ActsOf(dx);
    args.y = y.data();
    Call(Table().pool, args);
    ops::ExpectRowsNear(expected, y.Floats(), kDim, 1e-6f);
  }
}

TEST(CudaTable, SampleIsTheReference) {
  constexpr int kVocab = 1003;  // rows begin anywhere
  constexpr uint32_t kRows = 24;
  const auto logits = ops::RandomFloats(size_t{kRows} * kVocab, 5, 3);
  std::vector<ops::SampleRow> params;
  for (uint32_t r = 0; r < kRows; ++r) {
    params.push_back({.temperature = r % 3 == 0 ? 0 : 0.5f + static_cast<float>(r) * 0.1f,
                      .top_k = r % 8 == 7   ? -1
                               : r % 4 == 0 ? 20
                                            : 0,
                      .top_p = r % 2 == 0 ? 0.9f : 1,
                      .uniform = SamplingUniform(4, 0, r, 0)});
  }
  std::vector<int32_t> expected(kRows), tokens(kRows, -99);
  ops::SampleArgs args = {logits.data(), kVocab, params.data(), expected.data(), kRows, kVocab};
  CallReference(ops::RefTable().sample, args);
  args.tokens = tokens.data();
  Call(Table().sample, args);
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(tokens[7], -1) << "padding";
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 12u) << "trivial choices";
}

// A sequence from its start to the token after next: its counts stay on the device.
TEST(CudaTable, WhatWasCountedIsPenalised) {
  constexpr int kVocab = 100;
  std::vector<float> logits(kVocab);
  for (size_t i = 0; i < kVocab; ++i) logits[i] = static_cast<float>(i) * 0.1f;  // 0 to 9.9
  std::vector<uint16_t> counts(2 * ops::CountsStride(kVocab), 0xffff);
  const std::vector<int32_t> place = {1}, prompt = {99, 98}, of_prompt = {1, 1};
  const ops::SampleRow row = {.repetition = 1.02f, .frequency = 1, .place = 1, .logprobs = 1};
  Call(Table().clear_counts, ops::ClearCountsArgs{counts.data(), place.data(), 1, kVocab});
  Call(Table().count_tokens,
       ops::CountTokensArgs{prompt.data(), of_prompt.data(), counts.data(), 2, kVocab, /*in_prompt=*/true});
  std::vector<int32_t> tokens;
  for (int step = 0; step < 4; ++step) {
    int32_t token = -99;
    ops::SampleLogprobs out;
    Call(Table().sample,
         ops::SampleArgs{logits.data(), kVocab, &row, &token, 1, kVocab, nullptr, nullptr, counts.data(), &out});
    EXPECT_EQ(out.top_ids[0], 99);
    EXPECT_EQ(out.rank, 100 - token);
    Call(Table().count_tokens,
         ops::CountTokensArgs{&token, place.data(), counts.data(), 1, kVocab, /*in_prompt=*/false});
    tokens.push_back(token);
  }
  // 9.9 / 1.02 = 9.706 and 9.8 / 1.02 = 9.608 meet 9.7 and, once that is spent, 9.6.
  EXPECT_EQ(tokens, (std::vector<int32_t>{99, 97, 98, 96}));
}

TEST(CudaTable, CopyBlocksIsTheReference) {
  const std::vector<ops::BlockPair> pairs = {{0, 1}, {1, 2}, {5, 0}};
  const auto run = [&](auto call, const ops::OpTable& table) {
    std::vector<uint16_t> cache(2 * 6 * 16 * 3 * 16);
    for (size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<uint16_t>(i * 7);
    const ops::KvLayer layer = {cache.data(), cache.data() + cache.size() / 2, DType::kBF16, 16, 3, 16};
    call(table.copy_blocks, ops::CopyBlocksArgs{layer, pairs.data(), 3});
    return cache;
  };
  const auto device = [](auto op, const auto& args) { Call(op, args); };
  const auto reference = [](auto op, const auto& args) { CallReference(op, args); };
  EXPECT_EQ(run(device, Table()), run(reference, ops::RefTable()));
}

TEST(CudaTable, ChecksSizesBeforeTheyAreUsed) {
  const ops::OpSizes good = ops::LlamaSizes();
  EXPECT_TRUE(Table().check_sizes(good).ok()) << Table().check_sizes(good);
  ops::OpSizes mixture = good;
  mixture.experts = ops::kMaxExperts;
  mixture.experts_used = ops::kMaxExpertsUsed;
  mixture.expert_ffn = 96;
  EXPECT_TRUE(Table().check_sizes(mixture).ok()) << Table().check_sizes(mixture);
  const auto refused = [&](auto change, const char* word) {
    ops::OpSizes sizes = good;
    change(sizes);
    const absl::Status status = Table().check_sizes(sizes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << word;
    EXPECT_NE(status.message().find(word), absl::string_view::npos) << status;
  };
  refused([](ops::OpSizes& s) { s.hidden = 4100; }, "hidden size, 4100");
  refused([](ops::OpSizes& s) { s.q_dim = 80; }, "attention, 80");
  refused([](ops::OpSizes& s) { s.ffn = 16; }, "feed-forward width, 16");
  refused([](ops::OpSizes& s) { s.expert_ffn = 48; }, "experts' feed-forward width, 48");
  refused([](ops::OpSizes& s) { s.experts = 600, s.experts_used = 2; }, "2 of 600 experts");
  refused([](ops::OpSizes& s) { s.experts = 64, s.experts_used = 17; }, "17 of 64 experts");
  refused([](ops::OpSizes& s) { s.head_dim = 72; }, "head_dim 72");
  refused([](ops::OpSizes& s) { s.head_dim = 320; }, "head_dim 320");
  refused([](ops::OpSizes& s) { s.rot_dim = 24; }, "24 dimensions");
  refused([](ops::OpSizes& s) { s.vocab = 600000; }, "vocabulary of 600000");
  refused([](ops::OpSizes& s) { s.kv_type = DType::kF16; }, "KV cache of f16");
  refused([](ops::OpSizes& s) { s.block_size = 24; }, "blocks of 24");
  ops::OpSizes two = good;
  two.hidden = 20;
  two.block_size = 8;
  EXPECT_NE(Table().check_sizes(two).message().find("20"), absl::string_view::npos);
  EXPECT_NE(Table().check_sizes(two).message().find("blocks of 8"), absl::string_view::npos) << "all are told";
  ops::OpSizes interleaved = good;
  interleaved.interleaved = true;
  interleaved.rot_dim = 24;
  EXPECT_TRUE(Table().check_sizes(interleaved).ok());
}

}  // namespace
}  // namespace shoal::cuda
