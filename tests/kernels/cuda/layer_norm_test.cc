#include "kernels/cuda/layer_norm.h"

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

struct Case {
  int tokens, dim;
  bool join;
};

// y of the device's op, and x after it.
std::vector<float> OnDevice(const Case& c, const std::vector<float>& x, const std::vector<float>& add,
                            const std::vector<float>& w, const std::vector<float>& bias) {
  Buffer<bf16> dx(x), da(add), dy(x.size());
  Buffer<float> dw(w), db(bias);
  EXPECT_TRUE(Enqueue(nullptr, LayerNorm{dx.data(), c.join ? da.data() : nullptr, dw.data(),
                                         c.join ? db.data() : nullptr, dy.data(), c.tokens, c.dim, 1e-5f})
                  .ok());
  std::vector<float> both = dy.Floats(), after = dx.Floats();
  both.insert(both.end(), after.begin(), after.end());
  return both;
}

TEST(CudaLayerNorm, AgreesWithTheReference) {
  for (const Case& c : {Case{1, 8, false}, {5, 64, true}, {3, 576, true}, {2, 4096, false}, {2, 8200, true}}) {
    SCOPED_TRACE(testing::Message() << c.tokens << " x " << c.dim);
    const size_t size = static_cast<size_t>(c.tokens) * c.dim;
    const auto x = RandomBf16(size, 1), add = RandomBf16(size, 2), w = ops::RandomFloats(c.dim, 3),
               bias = ops::RandomFloats(c.dim, 4);
    const auto got = InEveryOrder<float>([&] { return OnDevice(c, x, add, w, bias); });
    std::vector<float> joined = x, y(size);
    for (size_t i = 0; i < size && c.join; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
    const std::vector<float> x_after(got.begin() + static_cast<int64_t>(size), got.end());
    ops::ExpectSameBits(joined, x_after);
    const auto stream = ops::MakeCpuStream(1);
    ASSERT_TRUE(ops::RefTable()
                    .layer_norm(*stream, {joined.data(), nullptr, w.data(), c.join ? bias.data() : nullptr, y.data(),
                                          c.tokens, c.dim, 1e-5f})
                    .ok());
    ops::ExpectRowsNear(y, {got.begin(), got.begin() + static_cast<int64_t>(size)}, static_cast<size_t>(c.dim), 4e-3f);
  }
}

TEST(CudaLayerNorm, ARowAloneIsTheRowAmongOthers) {
  const Case c = {9, 1024, true};
  const auto x = RandomBf16(9 * 1024, 4), add = RandomBf16(9 * 1024, 5), w = ops::RandomFloats(1024, 6),
             bias = ops::RandomFloats(1024, 7);
  const auto all = OnDevice(c, x, add, w, bias);
  for (int t = 0; t < 9; ++t) {
    const auto row = [&](const std::vector<float>& v) {
      return std::vector<float>(v.begin() + t * 1024, v.begin() + (t + 1) * 1024);
    };
    const auto alone = OnDevice({1, 1024, true}, row(x), row(add), w, bias);
    ops::ExpectSameBits(row(all).data(), alone.data(), 1024);
  }
}

TEST(CudaLayerNorm, WithoutWeightOnlyJoins) {
  Buffer<bf16> x(RandomBf16(64, 1)), add(RandomBf16(64, 2));
  const auto before = x.Floats(), added = add.Floats();
  ASSERT_TRUE(Enqueue(nullptr, LayerNorm{x.data(), add.data(), nullptr, nullptr, nullptr, 2, 32, 1e-5f}).ok());
  const auto after = x.Floats();
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(after[i], BF16ToF32(F32ToBF16(before[i] + added[i])));
}

TEST(CudaLayerNorm, RefusesAWidthThatIsNotInWholeVectors) {
  EXPECT_EQ(Enqueue(nullptr, LayerNorm{nullptr, nullptr, nullptr, nullptr, nullptr, 1, 12, 1e-5f}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
