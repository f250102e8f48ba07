// --numerics fast on the device: what cuBLASLt multiplies beside the own kernels' products of the same memory, and what
// it leaves to them.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/base/rng.h"
#include "kernels/cuda/library_gemm.h"
#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

constexpr int kTaken = static_cast<int>(cuda::kLibraryTokens) + 1;  // the fewest tokens that cuBLASLt multiplies

// The device of --numerics fast, where there is a cuBLASLt.
class GpuFast : public testing::Test {
 protected:
  void SetUp() override {
    if (absl::IsFailedPrecondition(fast_.status())) GTEST_SKIP() << fast_.status().message();
    ASSERT_TRUE(fast_.status().ok()) << fast_.status();
    ASSERT_EQ(&Table(), PluginTable(ops::Numerics::kFast));
  }
  static ops::MatmulFn Own() { return PluginTable(ops::Numerics::kInvariant)->matmul; }

 private:
  const UseNumerics fast_{ops::Numerics::kFast};
};

// One x, one weight, and both results.
struct Product {
  Product(const DeviceMatrix& weight, int tokens, bool f32_out, uint64_t seed)
      : w(weight),
        tokens(tokens),
        f32_out(f32_out),
        x(Size(w.k)),
        narrow(f32_out ? 0 : Size(w.n)),
        wide(f32_out ? Size(w.n) : 0) {
    SetX(seed);
  }
  size_t Size(int width) const { return static_cast<size_t>(tokens) * static_cast<size_t>(width); }
  void SetX(uint64_t seed) { SetX(RandomActs(Size(w.k), Seed() + seed)); }
  void SetX(const std::vector<float>& values) {
    x.Set(values);
    Poison();
  }
  // What is not written from now on is no number.
  void Poison() {
    narrow.Set(std::vector<float>(narrow.size(), std::nanf("")));
    wide.Set(std::vector<float>(wide.size(), std::nanf("")));
  }
  absl::Status Enqueue(ops::MatmulFn matmul) {
    ops::MatmulArgs args = {
        .x = x.in(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens, .k = w.k, .f32_out = f32_out};
    ops::Weight weight = w.view();
    weight.bias = bias;
    args.parts[0] = {weight, f32_out ? ops::Acts(wide.data()) : narrow.acts(), w.n};
    return matmul(Gpu().stream(), args);
  }
  std::vector<float> Values() const { return f32_out ? wide.Get() : narrow.Floats(); }
  std::vector<float> Run(ops::MatmulFn matmul) {
    Poison();
    const absl::Status enqueued = Enqueue(matmul);
    EXPECT_TRUE(enqueued.ok()) << enqueued;
    std::vector<float> values = Values();
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }));
    return values;
  }

  const float* bias = nullptr;  // on the device
  const DeviceMatrix& w;
  const int tokens;
  const bool f32_out;
  ActArray x;
  ActArray narrow;
  Array<float> wide;
};

struct Shape {
  int n, k;
};

// All products of a layer of an 8B and a 70B model, and their heads.
TEST_F(GpuFast, ProductsOfModelsAreTheOwnKernelsWithinTolerance) {
  for (const Shape& s : Sized<std::vector<Shape>>({{96, 64}, {64, 544}}, {{4096, 4096},
                                                                          {1024, 4096},
                                                                          {14336, 4096},
                                                                          {4096, 14336},
                                                                          {8192, 8192},
                                                                          {1024, 8192},
                                                                          {28672, 8192},
                                                                          {8192, 28672}})) {
    const DeviceMatrix w(DType::kBF16, s.n, s.k, Seed() + 100);
    for (const int tokens : Sized<std::vector<int>>({kTaken, 80}, {kTaken, 128, 1000})) {
      SCOPED_TRACE(testing::Message() << s.n << " x " << s.k << ", " << tokens << " tokens");
      Product product(w, tokens, false, 101);
      const auto own = product.Run(Own());
      ops::ExpectRowsNear(own, product.Run(Table().matmul), static_cast<size_t>(s.n), kActTolerance);
    }
  }
  const DeviceMatrix vocabulary(DType::kBF16, Sized(320, 128256), Sized(544, 4096), Seed() + 102);
  Product head(vocabulary, kTaken, true, 103);
  const auto own = head.Run(Own()), fast = head.Run(Table().matmul);
  ops::ExpectRowsNear(own, fast, static_cast<size_t>(head.w.n), 1e-4f);
  EXPECT_NE(own, fast) << "it sums in another order: this was no product of cuBLASLt's";
}

// cuBLASLt adds to what y holds: a bias that was put there, in y's type.
TEST_F(GpuFast, ABiasIsAdded) {
  const int n = Sized(96, 6144), k = Sized(544, 4096);
  const DeviceMatrix w(DType::kBF16, n, k, Seed() + 120);
  const Array<float> bias(ops::RandomFloats(static_cast<size_t>(n), Seed() + 121, 200));
  for (const bool f32_out : {false, true}) {
    for (const int tokens : Sized<std::vector<int>>({kTaken, 80}, {kTaken, 128, 1000})) {
      Product product(w, tokens, f32_out, 122);
      const auto without = product.Run(Table().matmul);
      product.bias = bias.data();
      const auto own = product.Run(Own()), fast = product.Run(Table().matmul);
      ops::ExpectRowsNear(own, fast, static_cast<size_t>(n), f32_out ? 1e-4f : kActTolerance);
      EXPECT_NE(without, fast);
    }
  }
}

// Too few tokens, other types of weights, and fp8 without factors of rows.
TEST_F(GpuFast, WhatCublasLtDoesNotTakeHasTheBitsOfTheOwnKernels) {
  const int n = Sized(96, 4096), k = Sized(544, 4096);
  const DeviceMatrix w(DType::kBF16, n, k, Seed() + 104);
  for (const int tokens : {1, kTaken - 1}) {
    Product product(w, tokens, true, 105);
    ops::ExpectSameBits(product.Run(Own()), product.Run(Table().matmul));
  }
  for (const DType type : WeightTypes()) {
    if (type == DType::kBF16) continue;
    SCOPED_TRACE(Info(type).name);
    const DeviceMatrix other(type, n, k, Seed() + 106);
    Product product(other, kTaken, true, 107);
    ops::ExpectSameBits(product.Run(Own()), product.Run(Table().matmul));
  }
}

// Two weights of one call, of which it takes one.
TEST_F(GpuFast, PartsOfOneCallAreSharedOut) {
  const int n = Sized(96, 4096), k = Sized(544, 4096), tokens = 100;
  const DeviceMatrix plain(DType::kBF16, n, k, Seed() + 108), other(DType::kQ8_0, n, k, Seed() + 109);
  const ActArray x(RandomActs(static_cast<size_t>(tokens) * k, Seed() + 110));
  const auto run = [&](ops::MatmulFn matmul) {
    const size_t size = static_cast<size_t>(tokens) * n;
    const Array<float> y(size), y_other(size);
    ops::MatmulArgs args = {
        .x = x.in(), .xq = nullptr, .parts = {}, .part_count = 2, .tokens = tokens, .k = k, .f32_out = true};
    args.parts[0] = {plain.view(), ops::Acts(y.data()), n};
    args.parts[1] = {other.view(), ops::Acts(y_other.data()), n};
    Call(matmul, args);
    return std::pair(y.Get(), y_other.Get());
  };
  const auto own = run(Own()), shared = run(Table().matmul);
  ops::ExpectRowsNear(own.first, shared.first, static_cast<size_t>(n), 1e-4f);
  EXPECT_NE(own.first, shared.first) << "it sums in another order";
  ops::ExpectSameBits(own.second, shared.second);
}

// A graph has cuBLASLt's product when its size was enqueued before; the own kernels' when it was not.
TEST_F(GpuFast, GraphsHaveTheBitsOfWhatWasKnownWhenTheyWereRecorded) {
  const DeviceMatrix w(DType::kBF16, Sized(96, 14336), Sized(544, 4096), Seed() + 111);
  for (const bool known : {true, false}) {
    SCOPED_TRACE(known ? "known" : "new");
    Product product(w, known ? 96 : 112, true, 112);
    if (known) (void)product.Run(Table().matmul);
    auto graph = Gpu().Record([&] { return product.Enqueue(Table().matmul); });
    ASSERT_TRUE(graph.ok()) << graph.status();
    std::vector<std::vector<float>> replayed;
    for (const uint64_t seed : {114, 115, 114}) {
      product.SetX(seed);
      const absl::Status launched = Gpu().Launch(**graph);
      ASSERT_TRUE(launched.ok()) << launched;
      replayed.push_back(product.Values());
    }
    EXPECT_NE(replayed[0], replayed[1]);
    ops::ExpectSameBits(replayed[0], replayed[2]);
    ops::ExpectSameBits(product.Run(known ? Table().matmul : Own()), replayed[2]);
    EXPECT_NE(product.Run(known ? Own() : Table().matmul), replayed[2]) << "it sums in another order";
  }
}

// ---- weights in fp8

// Whole numbers of 8 bits times a power of two of the row's own: exact in bf16, and fast enough to make for real sizes.
std::vector<float> RowsOfAllSizes(int tokens, int k, uint64_t seed) {
  std::vector<float> x(static_cast<size_t>(tokens) * static_cast<size_t>(k));
  ops::ParallelFor(Host(), tokens, [&](int t) {
    float* const row = x.data() + int64_t{t} * k;
    uint64_t bits = 0;
    for (int i = 0; i < k; ++i, bits >>= 16) {
      if (i % 4 == 0) bits = RandomBits(seed, static_cast<uint64_t>(t), static_cast<uint64_t>(i) / 4);
      row[i] = std::ldexp(static_cast<float>((bits & 255)) - static_cast<float>(bits >> 8 & 255), t % 9 - 12);
    }
  });
  return x;
}

// A row of x as e4m3 has it: the definition in kernels/cuda/quantise_rows.h.
std::vector<float> Quantised(const float* x, int k) {
  float largest = 0;
  for (int i = 0; i < k; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float wanted = largest / 448, scale = wanted >= 0x1p-126f ? wanted : 1, inverse = 1 / scale;
  std::vector<float> row(static_cast<size_t>(k));
  for (int i = 0; i < k; ++i) row[static_cast<size_t>(i)] = F8E4M3ToF32(F32ToF8E4M3(x[i] * inverse)) * scale;
  return row;
}

// Weights that share x; those in fp8 have a factor for each row.
class SharedX {
 public:
  SharedX(const std::vector<std::pair<DType, int>>& parts, int k) : k_(k) {
    for (const auto& [type, n] : parts) {
      const uint64_t seed = Seed() + 120 + 2 * weights_.size();
      weights_.push_back(std::make_unique<DeviceMatrix>(type, n, k, seed));
      factors_.push_back(ops::RandomFloats(static_cast<size_t>(n), seed + 1));
      device_factors_.emplace_back(factors_.back());
    }
  }
  bool IsFp8(size_t p) const { return weights_[p]->type == DType::kF8E4M3; }
  size_t N(size_t p) const { return static_cast<size_t>(weights_[p]->n); }
  size_t parts() const { return weights_.size(); }

  // y of each part, [tokens, n]; `x` on the device, [tokens, k].
  std::vector<std::vector<float>> Run(ops::MatmulFn matmul, const ActArray& x, bool f32_out) const {
    const size_t tokens = x.size() / static_cast<size_t>(k_);
    ops::MatmulArgs args = {.x = x.in(),
                            .xq = nullptr,
                            .parts = {},
                            .part_count = 0,
                            .tokens = static_cast<int>(tokens),
                            .k = k_,
                            .f32_out = f32_out};
    std::vector<ActArray> narrow;
    std::vector<Array<float>> wide;
    for (size_t p = 0; p < parts(); ++p) {
      narrow.emplace_back(f32_out ? 0 : tokens * N(p));
      wide.emplace_back(f32_out ? tokens * N(p) : 0);
      const float* const factors = IsFp8(p) ? device_factors_[p].data() : nullptr;
      args.parts[args.part_count++] = {weights_[p]->view(factors),
                                       f32_out ? ops::Acts(wide[p].data()) : narrow[p].acts(), weights_[p]->n};
    }
    Call(matmul, args);
    std::vector<std::vector<float>> y;
    for (size_t p = 0; p < parts(); ++p) {
      y.push_back(f32_out ? wide[p].Get() : narrow[p].Floats());
      EXPECT_TRUE(std::all_of(y[p].begin(), y[p].end(), [](float v) { return std::isfinite(v); }));
    }
    return y;
  }

  // That `y` of part p, in fp8, is the product with the quantised x: some columns of some rows, in double.
  void ExpectQuantised(size_t p, const std::vector<float>& x, const std::vector<float>& y, float tolerance) const {
    const size_t width = static_cast<size_t>(k_), tokens = x.size() / width;
    const std::vector<int> rows = Sample(static_cast<int>(tokens), 48), columns = Sample(weights_[p]->n, 120);
    const std::vector<float> w = weights_[p]->Values(columns);
    std::vector<float> expected(rows.size() * columns.size()), got(expected.size());
    ops::ParallelFor(Host(), static_cast<int>(rows.size()), [&](int r) {
      const auto t = static_cast<size_t>(rows[static_cast<size_t>(r)]);
      const std::vector<float> row = Quantised(x.data() + t * width, k_);
      for (size_t c = 0; c < columns.size(); ++c) {
        const auto column = static_cast<size_t>(columns[c]), at = static_cast<size_t>(r) * columns.size() + c;
        double sum = 0;
        for (size_t i = 0; i < width; ++i) sum += static_cast<double>(row[i]) * w[c * width + i];
        expected[at] = static_cast<float>(sum * factors_[p][column]);
        got[at] = y[t * N(p) + column];
      }
    });
    ops::ExpectRowsNear(expected, got, columns.size(), tolerance);
  }

 private:
  // The first and the last ones, and some between.
  static std::vector<int> Sample(int count, int most) {
    std::vector<int> sample;
    for (int i = 0; i < count; ++i) {
      const uint64_t pick = RandomBits(Seed(), 119, static_cast<uint64_t>(i)) % static_cast<uint64_t>(count);
      const bool border = i < most / 4 || i >= count - most / 4;
      if (count <= most || border || pick < static_cast<uint64_t>(most) / 2) sample.push_back(i);
    }
    return sample;
  }

  const int k_;
  std::vector<std::unique_ptr<DeviceMatrix>> weights_;
  std::vector<std::vector<float>> factors_;
  std::vector<Array<float>> device_factors_;
};

// One call, to y in f32 and in bf16. What cuBLASLt multiplies is the product with the quantised x, which the own
// kernels' results are not; on compute capability 9.0 it has one, elsewhere the own kernels' bits do as well.
void ExpectFast(const SharedX& call, int tokens, int k, ops::MatmulFn own_product) {
  const std::vector<float> x = RowsOfAllSizes(tokens, k, Seed() + 118);
  const ActArray device_x(x);
  for (const bool f32_out : {true, false}) {
    const auto own = call.Run(own_product, device_x, f32_out), fast = call.Run(Table().matmul, device_x, f32_out);
    for (size_t p = 0; p < call.parts(); ++p) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << call.N(p) << " x " << k << (f32_out ? " in f32" : "")
                                      << ", part " << p);
      const bool taken = own[p] != fast[p];
      if (!call.IsFp8(p)) {
        ops::ExpectRowsNear(own[p], fast[p], call.N(p), f32_out ? 1e-4f : kActTolerance);
      } else if (taken) {
        call.ExpectQuantised(p, x, fast[p], f32_out ? 2e-3f : 1e-2f);
      }
      EXPECT_TRUE(taken || !call.IsFp8(p) || ComputeCapability() != 90) << "cuBLASLt has not multiplied it";
    }
  }
}

// One product of some tokens, of more, of a whole step of the longest, and of one that goes in two pieces.
TEST_F(GpuFast, Fp8OfSizesOfModelsIsTheProductWithTheQuantisedX) {
  struct Case {
    int n, k;
    std::vector<int> tokens;
  };
  for (const Case& c :
       Sized<std::vector<Case>>({{96, 64, {kTaken}}, {64, 544, {80, 300}}},
                                {{4096, 4096, {kTaken}}, {10240, 8192, {200}}, {8192, 28672, {2048, 2500}}})) {
    const SharedX call({{DType::kF8E4M3, c.n}}, c.k);
    for (const int tokens : c.tokens) ExpectFast(call, tokens, c.k, Own());
  }
}

TEST_F(GpuFast, PartsInFp8ShareXWithEachOtherAndWithOtherTypes) {
  const int n = Sized(64, 4096), less = Sized(32, 1024), k = Sized(96, 4096);
  const SharedX alike({{DType::kF8E4M3, n}, {DType::kF8E4M3, less}, {DType::kF8E4M3, less}}, k);
  ExpectFast(alike, 100, k, Own());
  const SharedX mixed({{DType::kBF16, less}, {DType::kF8E4M3, n}, {DType::kQ8_0, less}, {DType::kF8E4M3, less}}, k);
  ExpectFast(mixed, 100, k, Own());
}

// Products with the unit matrix are x as it was quantised, to the bit: codes and factors are the host's.
TEST_F(GpuFast, XIsQuantisedToTheBit) {
  const int k = Sized(96, 4096), tokens = Sized(70, 1000);
  const auto width = static_cast<size_t>(k), rows = static_cast<size_t>(tokens);
  std::vector<uint8_t> unit(width * width);
  for (size_t i = 0; i < width; ++i) unit[i * width + i] = F32ToF8E4M3(1);
  const Array<uint8_t> w(unit);
  const Array<float> factors(std::vector<float>(width, 1.0f)), y(rows * width);
  std::vector<float> x = RandomActs(rows * width, Seed() + 116);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], static_cast<int>(i / width % 61) - 30);
  std::fill_n(x.begin(), width, 0.0f);                                       // no factor of its own
  std::fill_n(x.begin() + static_cast<int64_t>(width), width, 0x1p-133f);    // too small for one
  std::fill_n(x.begin() + static_cast<int64_t>(2 * width), width, -448.0f);  // one of 1
  const ActArray device_x(x);
  ops::MatmulArgs args = {
      .x = device_x.in(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens, .k = k, .f32_out = true};
  args.parts[0] = {{w.data(), DType::kF8E4M3, k, k, factors.data()}, ops::Acts(y.data()), k};
  Call(Own(), args);
  const std::vector<float> own = y.Get();
  Call(Table().matmul, args);
  const std::vector<float> got = y.Get();
  if (got == own && ComputeCapability() != 90) return;  // cuBLASLt has no such product
  for (size_t t = 0; t < rows; ++t) {
    const std::vector<float> expected = Quantised(x.data() + t * width, k);
    for (size_t i = 0; i < width; ++i) ASSERT_EQ(expected[i], got[t * width + i]) << "row " << t << ", column " << i;
  }
}

}  // namespace
}  // namespace shoal::gpu
