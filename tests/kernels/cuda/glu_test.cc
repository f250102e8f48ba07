#include "kernels/cuda/glu.h"

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::Activation;

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu};

// gate and up as the halves of one buffer, y in a buffer of its own or over the gate.
std::vector<float> OnDevice(const std::vector<float>& both, int tokens, int dim, Activation activation, bool in_place,
                            bool product = true) {
  Buffer<bf16> in(both), out(static_cast<size_t>(tokens * dim));
  bf16* const y = in_place ? in.data() : out.data();
  const bf16* const up = product ? in.data() + dim : nullptr;
  const Glu op = {in.data(), up, 2 * dim, y, in_place ? 2 * dim : dim, tokens, dim, activation};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  if (!in_place) return out.Floats();
  const auto all = in.Floats();
  std::vector<float> rows;
  for (int t = 0; t < tokens; ++t) rows.insert(rows.end(), &all[2 * t * dim], &all[2 * t * dim] + dim);
  return rows;
}

TEST(CudaGlu, AgreesWithTheReferenceInPlaceToo) {
  constexpr int kTokens = 5;
  for (const Activation activation : kActivations) {
    for (const int dim : {8, 104, 2304}) {
      SCOPED_TRACE(testing::Message() << dim);
      const auto both = RandomBf16(static_cast<size_t>(kTokens * 2 * dim), 1, 3);
      std::vector<float> gate, up, expected(static_cast<size_t>(kTokens * dim));
      for (int t = 0; t < kTokens; ++t) {
        gate.insert(gate.end(), &both[2 * t * dim], &both[2 * t * dim] + dim);
        up.insert(up.end(), &both[2 * t * dim] + dim, &both[2 * t * dim] + 2 * dim);
      }
      const auto stream = ops::MakeCpuStream(1);
      ASSERT_TRUE(
          ops::RefTable().glu(*stream, {gate.data(), up.data(), expected.data(), kTokens, dim, activation}).ok());
      const auto got = InEveryOrder<float>([&] { return OnDevice(both, kTokens, dim, activation, false); });
      ops::ExpectRowsNear(expected, got, static_cast<size_t>(dim), 4e-3f);
      // Each by itself: half a bf16 step, and what the exponential leaves.
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 4e-3f * std::fabs(expected[i]) + 1e-6f);
      ops::ExpectSameBits(got, OnDevice(both, kTokens, dim, activation, true));
      const std::vector<float> last(both.end() - 2 * dim, both.end());
      const auto alone = OnDevice(last, 1, dim, activation, false);
      ops::ExpectSameBits(got.data() + (kTokens - 1) * dim, alone.data(), static_cast<size_t>(dim));
    }
  }
}

TEST(CudaGlu, WithoutAProductIsTheActivationAlone) {
  constexpr int kTokens = 3, kDim = 264;
  for (const Activation activation : kActivations) {
    const auto both = RandomBf16(kTokens * 2 * kDim, 5, 3);
    std::vector<float> gate, expected(kTokens * kDim);
    for (int t = 0; t < kTokens; ++t) gate.insert(gate.end(), &both[2 * t * kDim], &both[2 * t * kDim] + kDim);
    const auto stream = ops::MakeCpuStream(1);
    ASSERT_TRUE(ops::RefTable().glu(*stream, {gate.data(), nullptr, expected.data(), kTokens, kDim, activation}).ok());
    for (const bool in_place : {false, true}) {
      const auto got = OnDevice(both, kTokens, kDim, activation, in_place, false);
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 4e-3f * std::fabs(expected[i]) + 1e-6f);
    }
  }
}

// act(x) * 1 far out on both sides, and what is no number.
TEST(CudaGlu, EndsAreTheReferences) {
  for (const Activation activation : kActivations) {
    const std::vector<float> gate = {-1e30f, -200, -88, 0, 88, 200, 1e30f, NAN};
    std::vector<float> both = gate;
    both.resize(16, 1.0f);
    const auto got = OnDevice(both, 1, 8, activation, false);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(got[i], 0, 1e-30) << gate[i];
    EXPECT_EQ(got[3], 0);
    for (size_t i = 4; i < 7; ++i) EXPECT_NEAR(got[i], gate[i], gate[i] * 4e-3f) << gate[i];
    EXPECT_TRUE(std::isnan(got[7]));
  }
}

TEST(CudaGlu, RefusesWidthsAndStridesThatAreNotInWholeVectors) {
  for (const auto& [dim, stride] : {std::pair{12, 24}, {16, 36}, {0, 16}}) {
    const Glu op = {nullptr, nullptr, stride, nullptr, 16, 1, dim, Activation::kSilu};
    EXPECT_EQ(Enqueue(nullptr, op).code(), absl::StatusCode::kInvalidArgument) << dim;
  }
}

}  // namespace
}  // namespace shoal::cuda
