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
  Product(const DeviceMatrix& weight, int tokens, bool f32_out, uint64_t seed, const float* row_scale = nullptr)
      : w(weight),
        row_scale(row_scale),
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
    args.parts[0] = {w.view(row_scale), f32_out ? ops::Acts(wide.data()) : narrow.acts(), w.n};
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

  const DeviceMatrix& w;
  const float* const row_scale;  // [n] on the device
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

// Activations [tokens, k] that e4m3 has to the bit: the largest number of each token is 448 times a power of two.
std::vector<float> ActsOfE4m3(int tokens, int k, uint64_t seed) {
  const auto width = static_cast<size_t>(k);
  std::vector<float> x(static_cast<size_t>(tokens) * width);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto code = static_cast<uint8_t>(RandomBits(Seed() + seed, 5, i));
    const size_t token = i / width;
    const float number = (code & 127) == 127 || i % width == token % width ? 448 : F8E4M3ToF32(code);
    x[i] = std::ldexp(number, -static_cast<int>(token % 5) - 6);
  }
  return x;
}

// Weights in fp8 with factors of rows: x is quantised for cuBLASLt. What e4m3 has loses nothing by that; other numbers
// lose 2^-4 of themselves at most. The last size takes more than one piece of the scratch.
TEST_F(GpuFast, ProductsInFp8AreTheOwnKernelsWithinTolerance) {
  struct Size {
    int n, k, tokens;
  };
  for (const Size& s : Sized<std::vector<Size>>({{96, 64, kTaken}, {64, 544, 80}, {16, 4128, 140}},
                                                {{8192, 8192, 128}, {28672, 8192, 1000}, {4096, 28672, 2500}})) {
    SCOPED_TRACE(testing::Message() << s.n << " x " << s.k << ", " << s.tokens << " tokens");
    const DeviceMatrix w(DType::kF8E4M3, s.n, s.k, Seed() + 116);
    const Array<float> factors(ops::RandomFloats(static_cast<size_t>(s.n), Seed() + 117));
    const std::vector<float> exact = ActsOfE4m3(s.tokens, s.k, 118);
    for (const bool f32_out : {true, false}) {
      Product product(w, s.tokens, f32_out, 119, factors.data());
      const auto own = product.Run(Own()), fast = product.Run(Table().matmul);
      if (own == fast) GTEST_SKIP() << "this cuBLASLt multiplies no fp8 here: own kernels do";
      ops::ExpectRowsNear(own, fast, static_cast<size_t>(s.n), 0.15f);  // of a sum that a few numbers may make up
      product.SetX(exact);
      ops::ExpectRowsNear(product.Run(Own()), product.Run(Table().matmul), static_cast<size_t>(s.n), kActTolerance);
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

}  // namespace
}  // namespace shoal::gpu
