// rms_norm and layer_norm, which join and share out their rows alike.
#include <ostream>

#include "kernels/cuda/layer_norm.h"
#include "kernels/cuda/rms_norm.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr float kEps = 1e-5f;

// One of them on arrays of the device's types; `add`, `w` and `bias` may be null.
struct Norm {
  const char* name;
  absl::Status (*enqueue)(bf16* x, const bf16* add, const float* w, const float* bias, bf16* y, int tokens, int dim);
  absl::Status (*reference)(ops::Stream&, float* x, const float* w, const float* bias, float* y, int tokens, int dim);
};
void PrintTo(const Norm& norm, std::ostream* out) { *out << norm.name; }

constexpr Norm kRms = {"rms",
                       [](bf16* x, const bf16* add, const float* w, const float*, bf16* y, int tokens, int dim) {
                         return Enqueue(nullptr, RmsNorm{x, add, w, y, tokens, dim, kEps, 1});
                       },
                       [](ops::Stream& stream, float* x, const float* w, const float*, float* y, int tokens, int dim) {
                         return ops::RefTable().rms_norm(stream, {x, nullptr, w, y, tokens, dim, kEps, 1});
                       }};
constexpr Norm kLayer = {
    "layer",
    [](bf16* x, const bf16* add, const float* w, const float* bias, bf16* y, int tokens, int dim) {
      return Enqueue(nullptr, LayerNorm{x, add, w, bias, y, tokens, dim, kEps});
    },
    [](ops::Stream& stream, float* x, const float* w, const float* bias, float* y, int tokens, int dim) {
      return ops::RefTable().layer_norm(stream, {x, nullptr, w, bias, y, tokens, dim, kEps});
    }};

class CudaNorm : public testing::TestWithParam<Norm> {};

// With a join: what is added, and layer_norm's bias.
struct Case {
  int tokens, dim;
  bool join;
};
struct Inputs {
  explicit Inputs(const Case& c) : size(static_cast<size_t>(c.tokens) * static_cast<size_t>(c.dim)) {
    for (float& value : x) value = BF16ToF32(F32ToBF16(value + 3));  // a mean to subtract
  }
  size_t size;
  std::vector<float> x = RandomBf16(size, 1), add = RandomBf16(size, 2);
};
struct Weights {
  explicit Weights(int dim) : w(ops::RandomFloats(static_cast<size_t>(dim), 3)), bias(ops::RandomFloats(w.size(), 4)) {}
  std::vector<float> w, bias;
};

// y of the device's op, then x after it.
std::vector<float> OnDevice(const Norm& norm, const Case& c, const std::vector<float>& x, const std::vector<float>& add,
                            const Weights& of) {
  Buffer<bf16> dx(x), da(add), dy(x.size());
  Buffer<float> dw(of.w), db(of.bias);
  const bf16* const added = c.join ? da.data() : nullptr;
  const float* const bias = c.join ? db.data() : nullptr;
  EXPECT_TRUE(norm.enqueue(dx.data(), added, dw.data(), bias, dy.data(), c.tokens, c.dim).ok());
  std::vector<float> both = dy.Floats(), after = dx.Floats();
  both.insert(both.end(), after.begin(), after.end());
  return both;
}

TEST_P(CudaNorm, AgreesWithTheReference) {
  for (const Case& c : {Case{1, 8, false},
                        {5, 64, true},
                        {3, 576, true},
                        {2, 4096, false},
                        {2, 8200, true},
                        // heads, many to a block: as many lanes as they need, and the last block is not full
                        {67, 64, false},
                        {35, 64, true},
                        {33, 80, true},
                        {17, 128, false},
                        {19, 256, true},
                        {9, 264, true}}) {
    SCOPED_TRACE(testing::Message() << c.tokens << " x " << c.dim);
    const Inputs in(c);
    const Weights of(c.dim);
    const auto got = InEveryOrder<float>([&] { return OnDevice(GetParam(), c, in.x, in.add, of); });
    std::vector<float> joined = in.x, y(in.size);
    for (size_t i = 0; i < in.size && c.join; ++i) joined[i] = BF16ToF32(F32ToBF16(in.x[i] + in.add[i]));
    const auto x_after = got.begin() + static_cast<int64_t>(in.size);
    ops::ExpectSameBits(joined, {x_after, got.end()});
    const auto stream = ops::MakeCpuStream(1);
    const float* const bias = c.join ? of.bias.data() : nullptr;
    ASSERT_TRUE(GetParam().reference(*stream, joined.data(), of.w.data(), bias, y.data(), c.tokens, c.dim).ok());
    ops::ExpectRowsNear(y, {got.begin(), x_after}, static_cast<size_t>(c.dim), 4e-3f);
  }
}

TEST_P(CudaNorm, ARowAloneIsTheRowAmongOthers) {
  for (const Case& c : {Case{9, 1024, true}, {40, 64, true}, {20, 96, false}, {11, 256, true}}) {
    const Inputs in(c);
    const Weights of(c.dim);
    const auto all = OnDevice(GetParam(), c, in.x, in.add, of);
    for (int t = 0; t < c.tokens; ++t) {
      const auto row = [&](const std::vector<float>& v) {
        return std::vector<float>(v.begin() + t * c.dim, v.begin() + (t + 1) * c.dim);
      };
      const auto alone = OnDevice(GetParam(), {1, c.dim, c.join}, row(in.x), row(in.add), of);
      ops::ExpectSameBits(row(all).data(), alone.data(), static_cast<size_t>(c.dim));
    }
  }
}

// Heads before they are rotated: y is x, with a join or without.
TEST_P(CudaNorm, WritesOverItsInput) {
  for (const int dim : {64, 576}) {
    for (const bool join : {false, true}) {
      const Case c = {21, dim, join};
      const Inputs in(c);
      const Weights of(dim);
      const auto apart = OnDevice(GetParam(), c, in.x, in.add, of);
      Buffer<bf16> dx(in.x), da(in.add);
      Buffer<float> dw(of.w), db(of.bias);
      const bf16* const added = join ? da.data() : nullptr;
      const float* const bias = join ? db.data() : nullptr;
      ASSERT_TRUE(GetParam().enqueue(dx.data(), added, dw.data(), bias, dx.data(), c.tokens, dim).ok());
      ops::ExpectSameBits(apart.data(), dx.Floats().data(), in.size);
    }
  }
}

TEST_P(CudaNorm, WithoutWeightOnlyJoins) {
  Buffer<bf16> x(RandomBf16(64, 1)), add(RandomBf16(64, 2));
  const auto before = x.Floats(), added = add.Floats();
  ASSERT_TRUE(GetParam().enqueue(x.data(), add.data(), nullptr, nullptr, nullptr, 2, 32).ok());
  const auto after = x.Floats();
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(after[i], BF16ToF32(F32ToBF16(before[i] + added[i])));
}

TEST_P(CudaNorm, RefusesAWidthThatIsNotInWholeVectors) {
  EXPECT_EQ(GetParam().enqueue(nullptr, nullptr, nullptr, nullptr, nullptr, 1, 12).code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Norms, CudaNorm, testing::Values(kRms, kLayer),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shoal::cuda
