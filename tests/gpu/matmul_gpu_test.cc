// Matmul on the device: beside the reference, and a row's bits whatever stands beside it.
#include <algorithm>
#include <cmath>

#include "common/base/rng.h"
#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

// y [tokens, n] in f32 of rows of x, numbers where x has them: what was not written would be none.
std::vector<float> Multiply(const DeviceMatrix& w, const std::vector<float>& x, const float* row_scale = nullptr) {
  const auto tokens = x.size() / static_cast<size_t>(w.k);
  const ActArray dx(x);
  const Array<float> y(tokens * static_cast<size_t>(w.n));
  ops::MatmulArgs args = {.x = dx.in(),
                          .xq = nullptr,
                          .parts = {},
                          .part_count = 1,
                          .tokens = static_cast<int>(tokens),
                          .k = w.k,
                          .f32_out = true};
  args.parts[0] = {w.view(row_scale), ops::Acts(y.data()), w.n};
  Call(Table().matmul, args);
  std::vector<float> values = y.Get();
  const auto finite = [](float v) { return std::isfinite(v); };
  if (std::all_of(x.begin(), x.end(), finite)) {
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), finite));
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) { return v != 0; }));
  }
  return values;
}

std::vector<float> RowsOf(const std::vector<float>& x, int begin, int end, int width) {
  return {x.begin() + static_cast<int64_t>(begin) * width, x.begin() + static_cast<int64_t>(end) * width};
}

// Weights of one call that share x, their results side by side with unequal strides.
struct SharedInput {
  struct Part {
    DType type;
    int n;
  };
  SharedInput(const std::vector<Part>& parts, int k) : k(k) {
    for (size_t p = 0; p < parts.size(); ++p) {
      weights.emplace_back(std::make_unique<DeviceMatrix>(parts[p].type, parts[p].n, k, Seed() + 40 + p));
      scales.push_back(ops::RandomFloats(static_cast<size_t>(parts[p].n), Seed() + 50 + p));
      device_scales.emplace_back(scales[p]);
      biases.push_back(ops::RandomFloats(static_cast<size_t>(parts[p].n), Seed() + 60 + p, 10));
      device_biases.emplace_back(biases[p]);
    }
  }
  // y of each part, [tokens, n].
  std::vector<std::vector<float>> Run(const std::vector<float>& x, bool f32_out) const {
    const int tokens = static_cast<int>(x.size()) / k;
    const ActArray dx(x);
    ops::MatmulArgs args = {
        .x = dx.in(), .xq = nullptr, .parts = {}, .part_count = 0, .tokens = tokens, .k = k, .f32_out = f32_out};
    std::vector<ActArray> narrow;
    std::vector<Array<float>> wide;
    for (size_t p = 0; p < weights.size(); ++p) {
      const size_t stride = static_cast<size_t>(weights[p]->n) + 3;  // that of no vector
      narrow.emplace_back(f32_out ? 0 : stride * static_cast<size_t>(tokens));
      wide.emplace_back(f32_out ? stride * static_cast<size_t>(tokens) : 0);
      ops::Weight w = weights[p]->view(p > 0 ? device_scales[p].data() : nullptr);
      if (p != 1) w.bias = device_biases[p].data();
      args.parts[args.part_count++] = {w, f32_out ? ops::Acts(wide[p].data()) : narrow[p].acts(),
                                       static_cast<int64_t>(stride)};
    }
    Call(Table().matmul, args);
    std::vector<std::vector<float>> out;
    for (size_t p = 0; p < weights.size(); ++p) {
      const int n = weights[p]->n;
      out.push_back(ops::RowsOfStride(f32_out ? wide[p].Get() : narrow[p].Floats(), n, n + 3));
    }
    return out;
  }
  // Of a sample of columns, [tokens, columns].
  std::vector<float> Expected(const std::vector<float>& x, size_t p, const std::vector<int>& columns) const {
    const std::vector<float> w = weights[p]->Values(columns);
    const int n = static_cast<int>(columns.size()), tokens = static_cast<int>(x.size()) / k;
    std::vector<float> factor, bias, y(static_cast<size_t>(tokens) * columns.size());
    for (const int c : columns) {
      factor.push_back(scales[p][static_cast<size_t>(c)]);
      bias.push_back(biases[p][static_cast<size_t>(c)]);
    }
    ops::MatmulArgs args = {.x = x.data(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens, .k = k};
    const ops::Weight sample = {
        w.data(), DType::kF32, n, k, p > 0 ? factor.data() : nullptr, p != 1 ? bias.data() : nullptr};
    args.parts[0] = {sample, y.data(), n};
    CallReference(ops::RefTable().matmul, args);
    return y;
  }
  const int k;
  std::vector<std::unique_ptr<DeviceMatrix>> weights;
  std::vector<std::vector<float>> scales, biases;  // the first part has no scales, the second no biases
  std::vector<Array<float>> device_scales, device_biases;
};

// All columns where they are few, else the first and last ones and some between.
std::vector<int> Columns(int n) {
  std::vector<int> columns;
  for (int c = 0; c < n; ++c) {
    const uint64_t pick = RandomBits(Seed(), 60, static_cast<uint64_t>(c));
    if (n <= 300 || c < 40 || c >= n - 40 || pick % static_cast<uint64_t>(n) < 80) columns.push_back(c);
  }
  return columns;
}

void ExpectAgrees(const SharedInput& call, int tokens, bool f32_out) {
  const auto x = RandomActs(static_cast<size_t>(tokens) * static_cast<size_t>(call.k), Seed() + 61);
  const auto got = call.Run(x, f32_out);
  for (size_t p = 0; p < call.weights.size(); ++p) {
    const int n = call.weights[p]->n;
    SCOPED_TRACE(testing::Message() << Info(call.weights[p]->type).name << " " << n << " x " << call.k << ", " << tokens
                                    << " tokens" << (f32_out ? " in f32" : ""));
    const std::vector<int> columns = Columns(n);
    std::vector<float> sample;
    for (int t = 0; t < tokens; ++t) {
      for (const int c : columns) sample.push_back(got[p][static_cast<size_t>(t) * n + static_cast<size_t>(c)]);
    }
    // A row of one value may be small by chance: taken together.
    const size_t row = n == 1 ? static_cast<size_t>(tokens) : columns.size();
    ops::ExpectRowsNear(call.Expected(x, p, columns), sample, row, f32_out ? 1e-4f : kActTolerance);
  }
}

TEST(GpuMatmul, OddSizesAgreeWithTheReference) {
  const std::vector<std::vector<SharedInput::Part>> calls = {
      {{DType::kBF16, 48}, {DType::kF16, 17}, {DType::kQ8_0, 33}},
      {{DType::kQ4_0, 1}, {DType::kQ4_1, 100}, {DType::kI4, 45}},
      {{DType::kI8, 20}, {DType::kF8E4M3, 50}, {DType::kI8, 33}, {DType::kF8E4M3, 9}}};
  for (const auto& parts : calls) {
    for (const int k : Sized<std::vector<int>>({96}, {32, 96, 1120})) {
      const SharedInput call(parts, k);
      for (const int tokens : Sized<std::vector<int>>({1, 17}, {1, 3, 17, 70, 129})) {
        for (const bool f32_out : {false, true}) ExpectAgrees(call, tokens, f32_out);
      }
    }
  }
}

// The products of an 8B and a 70B model, and its head, where the device is a real one.
TEST(GpuMatmul, SizesOfModelsAgreeWithTheReference) {
  struct Shape {
    int n, k;
  };
  for (const Shape& s : Sized<std::vector<Shape>>({{96, 64}}, {{6144, 4096}, {4096, 14336}, {10240, 8192}})) {
    for (const DType t : WeightTypes()) {
      const SharedInput call({{t, s.n}}, s.k);
      for (const int tokens : Sized<std::vector<int>>({5}, {1, 32, 200})) ExpectAgrees(call, tokens, false);
    }
  }
  for (const DType t : {DType::kBF16, DType::kQ8_0, DType::kF8E4M3}) {
    ExpectAgrees(SharedInput({{t, Sized(300, 128256)}}, Sized(64, 4096)), 3, true);
  }
}

class GpuMatmulBits : public testing::TestWithParam<DType> {};

TEST_P(GpuMatmulBits, ARowAloneIsTheRowInEveryBatch) {
  const int n = Sized(40, 4096 + 24), k = Sized(544, 4096), most = Sized(66, 256);
  const DeviceMatrix w(GetParam(), n, k, Seed() + 70);
  const auto x = RandomActs(static_cast<size_t>(most) * static_cast<size_t>(k), Seed() + 71);
  const auto whole = Multiply(w, x);
  std::vector<int> sizes = {1, 2, 7, 8, 9, 17, 33, 64};
  if (Large()) {
    for (int m = 1; m <= 64; ++m) sizes.push_back(m);
    sizes.insert(sizes.end(), {65, 100, 127, 128, 129, 200});
  }
  for (const int m : sizes) {
    SCOPED_TRACE(testing::Message() << m << " tokens");
    const auto part = Multiply(w, RowsOf(x, 0, m, k));
    ops::ExpectSameBits(whole.data(), part.data(), part.size());
  }
  for (const int t : Sized<std::vector<int>>({0, 7, 8, 65}, {0, 1, 7, 8, 31, 63, 64, 127, 128, 255})) {
    SCOPED_TRACE(testing::Message() << "token " << t << " alone");
    const auto alone = Multiply(w, RowsOf(x, t, t + 1, k));
    ops::ExpectSameBits(whole.data() + static_cast<size_t>(t) * static_cast<size_t>(n), alone.data(), alone.size());
  }
}

// That a tensor core treats all columns of a tile alike is nowhere written down.
TEST_P(GpuMatmulBits, TheBitsDoNotDependOnTheRowsPlaceInATile) {
  const int n = Sized(33, 2048), k = Sized(160, 8192), tokens = Sized(9, 128);
  const DeviceMatrix w(GetParam(), n, k, Seed() + 72);
  const auto one = RandomActs(static_cast<size_t>(k), Seed() + 73);
  std::vector<float> x;
  for (int t = 0; t < tokens; ++t) x.insert(x.end(), one.begin(), one.end());
  const auto y = Multiply(w, x);
  for (int t = 1; t < tokens; ++t) {
    SCOPED_TRACE(testing::Message() << "place " << t);
    ops::ExpectSameBits(y.data(), y.data() + static_cast<size_t>(t) * static_cast<size_t>(n), static_cast<size_t>(n));
  }
}

TEST_P(GpuMatmulBits, ARowOfTheWeightIsTheRowInAnyOther) {
  const int n = Sized(21, 517), k = Sized(160, 4096);
  const DeviceMatrix w(GetParam(), n, k, Seed() + 74);
  const DeviceMatrix same(GetParam(), n, k, Seed() + 74);
  const auto x = RandomActs(static_cast<size_t>(3 * k), Seed() + 75);
  ops::ExpectSameBits(Multiply(w, x), Multiply(same, x));
  // Columns of a larger product, as tensor parallelism cuts them, are those of the smaller.
  DeviceMatrix half(GetParam(), n / 2, k, Seed() + 74);
  half.canonical.assign(w.canonical.begin(), w.canonical.begin() + static_cast<int64_t>(RowBytes(GetParam(), k) *
                                                                                        static_cast<size_t>(n / 2)));
  std::vector<uint8_t> packed(half.packed.size(), 0xff);
  Table().pack_rows(GetParam(), half.canonical.data(), 0, n / 2, n / 2, k, packed.data());
  half.packed.Set(packed);
  const auto whole = Multiply(w, x), part = Multiply(half, x);
  for (size_t t = 0; t < 3; ++t) {
    ops::ExpectSameBits(whole.data() + t * static_cast<size_t>(n), part.data() + t * static_cast<size_t>(n / 2),
                        static_cast<size_t>(n / 2));
  }
}

TEST_P(GpuMatmulBits, ATokenThatIsNotANumberShowsAndHarmsNoOther) {
  const int n = Sized(20, 1000), k = Sized(128, 4096), tokens = Sized(9, 64);
  const DeviceMatrix w(GetParam(), n, k, Seed() + 76);
  auto x = RandomActs(static_cast<size_t>(tokens) * static_cast<size_t>(k), Seed() + 77);
  const auto before = Multiply(w, x);
  x[static_cast<size_t>(3 * k + 77)] = std::nanf("");
  const auto after = Multiply(w, x);
  for (size_t i = 0; i < after.size(); ++i) {
    if (i / static_cast<size_t>(n) == 3) {
      ASSERT_TRUE(std::isnan(after[i])) << i;
    } else {
      ASSERT_EQ(after[i], before[i]) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GpuMatmulBits,
                         testing::Values(DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                                         DType::kF8E4M3, DType::kI8, DType::kI4),
                         [](const auto& info) { return std::string(Info(info.param).name); });

}  // namespace
}  // namespace shoal::gpu
