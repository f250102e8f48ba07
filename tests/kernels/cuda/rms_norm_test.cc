#include "kernels/cuda/rms_norm.h"

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

struct Case {
  int tokens, dim;
  bool join;
};

// y of the device's op, and x after it.
std::vector<float> OnDevice(const Case& c, const std::vector<float>& x, const std::vector<float>& add,
                            const std::vector<float>& w) {
  Buffer<bf16> dx(x), da(add), dy(x.size());
  Buffer<float> dw(w);
  EXPECT_TRUE(Enqueue(nullptr,
                      RmsNorm{dx.data(), c.join ? da.data() : nullptr, dw.data(), dy.data(), c.tokens, c.dim, 1e-5f, 1})
                  .ok());
  std::vector<float> both = dy.Floats(), after = dx.Floats();
  both.insert(both.end(), after.begin(), after.end());
  return both;
}

TEST(CudaRmsNorm, AgreesWithTheReference) {
  for (const Case& c : {Case{1, 8, false}, {5, 64, true}, {3, 576, true}, {2, 4096, false}, {2, 8200, true}}) {
    SCOPED_TRACE(testing::Message() << c.tokens << " x " << c.dim);
    const size_t size = static_cast<size_t>(c.tokens) * c.dim;
    const auto x = RandomBf16(size, 1), add = RandomBf16(size, 2), w = ops::RandomFloats(c.dim, 3);
    const auto got = InEveryOrder<float>([&] { return OnDevice(c, x, add, w); });
    std::vector<float> joined = x, y(size);
    for (size_t i = 0; i < size && c.join; ++i) joined[i] = BF16ToF32(F32ToBF16(x[i] + add[i]));
    const std::vector<float> x_after(got.begin() + static_cast<int64_t>(size), got.end());
    ops::ExpectSameBits(joined, x_after);
    const auto stream = ops::MakeCpuStream(1);
    ASSERT_TRUE(ops::RefTable()
                    .rms_norm(*stream, {joined.data(), nullptr, w.data(), y.data(), c.tokens, c.dim, 1e-5f, 1})
                    .ok());
    ops::ExpectRowsNear(y, {got.begin(), got.begin() + static_cast<int64_t>(size)}, static_cast<size_t>(c.dim), 4e-3f);
  }
}

TEST(CudaRmsNorm, ARowAloneIsTheRowAmongOthers) {
  const Case c = {9, 1024, true};
  const auto x = RandomBf16(9 * 1024, 4), add = RandomBf16(9 * 1024, 5), w = ops::RandomFloats(1024, 6);
  const auto all = OnDevice(c, x, add, w);
  for (int t = 0; t < 9; ++t) {
    const auto row = [&](const std::vector<float>& v) {
      return std::vector<float>(v.begin() + t * 1024, v.begin() + (t + 1) * 1024);
    };
    const auto alone = OnDevice({1, 1024, true}, row(x), row(add), w);
    ops::ExpectSameBits(row(all).data(), alone.data(), 1024);
  }
}

TEST(CudaRmsNorm, WithoutWeightOnlyJoins) {
  Buffer<bf16> x(RandomBf16(64, 1)), add(RandomBf16(64, 2));
  const auto before = x.Floats(), added = add.Floats();
  ASSERT_TRUE(Enqueue(nullptr, RmsNorm{x.data(), add.data(), nullptr, nullptr, 2, 32, 1e-5f, 0}).ok());
  const auto after = x.Floats();
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(after[i], BF16ToF32(F32ToBF16(before[i] + added[i])));
}

TEST(CudaRmsNorm, RefusesAWidthThatIsNotInWholeVectors) {
  EXPECT_EQ(Enqueue(nullptr, RmsNorm{nullptr, nullptr, nullptr, nullptr, 1, 12, 1e-5f, 0}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
