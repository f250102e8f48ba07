#include "kernels/cuda/embed.h"

#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr float kScale = 1.7f;

// bf16 of the reference's row.
std::vector<float> Expected(const ops::PackedWeight& w, const std::vector<int32_t>& ids, int row_begin,
                            const float* add = nullptr) {
  std::vector<float> x(ids.size() * static_cast<size_t>(w.view.k));
  const auto stream = ops::MakeCpuStream(1);
  const ops::EmbedArgs args = {w.view, ids.data(), row_begin, kScale, x.data(), static_cast<int>(ids.size()), add};
  EXPECT_TRUE(ops::RefTable().embed(*stream, args).ok());
  for (float& v : x) v = BF16ToF32(F32ToBF16(v));
  return x;
}

// As PackLinear leaves it.
Buffer<uint8_t> Packed(DType t, const std::vector<uint8_t>& canonical, int n, int k) {
  Buffer<uint8_t> packed(LinearBytes(t, n, k));
  PackLinear(t, canonical.data(), 0, n, k, packed.data());
  return packed;
}

std::vector<float> OnDevice(const ops::Weight& table, std::vector<int32_t> ids, int row_begin,
                            const float* add = nullptr) {
  Buffer<bf16> x(ids.size() * static_cast<size_t>(table.k));
  const Embed op = {table, ids.data(), row_begin, kScale, x.data(), static_cast<int>(ids.size()), add};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  return x.Floats();
}

TEST(CudaEmbed, IsTheReferenceForEveryType) {
  const std::vector<int32_t> ids = {99, 100, 136, 118, 137, -1, 101};  // the shard has 100 to 136
  for (const DType t : ops::AllDTypes()) {
    for (const int dim : {32, 96, 2112}) {
      SCOPED_TRACE(testing::Message() << Info(t).name << " x " << dim);
      const auto canonical = ops::RandomWeight(t, 37, dim, 5);
      ops::PackedWeight w = ops::Pack(ops::RefTable(), t, canonical, 37, dim);
      Buffer<uint8_t> packed = Packed(t, canonical, 37, dim);
      Buffer<float> row_scale(ops::RandomFloats(37, 7));
      w.view.row_scale = dim == 96 ? row_scale.data() : nullptr;
      const ops::Weight table = {packed.data(), t, 37, dim, w.view.row_scale};
      Buffer<float> add(ops::RandomFloats(static_cast<size_t>(dim), 8));
      const auto added = Expected(w, ids, 100, add.data());
      ops::ExpectSameBits(added, OnDevice(table, ids, 100, add.data()));
      const auto expected = Expected(w, ids, 100);
      EXPECT_NE(added, expected);
      ops::ExpectSameBits(expected, InEveryOrder<float>([&] { return OnDevice(table, ids, 100); }));
      const auto row = [&](size_t i) {
        const auto begin = expected.begin() + static_cast<int64_t>(i) * dim;
        return std::vector<float>(begin, begin + dim);
      };
      const std::vector<float> zeros(static_cast<size_t>(dim), 0.0f);
      EXPECT_TRUE(row(0) == zeros && row(4) == zeros && row(5) == zeros) << "outside the shard";
      EXPECT_TRUE(row(1) != row(2) && row(1) != zeros && row(2) != zeros) << "trivial";
    }
  }
}

TEST(CudaEmbed, EveryCodeOfFp8IsItsValue) {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  Buffer<uint8_t> table = Packed(DType::kF8E4M3, codes, 1, 256);
  Buffer<bf16> x(256);
  const std::vector<int32_t> ids = {0};
  const Embed op = {{table.data(), DType::kF8E4M3, 1, 256}, ids.data(), 0, 1, x.data(), 1, nullptr};
  ASSERT_TRUE(Enqueue(nullptr, op).ok());
  for (size_t i = 0; i < 256; ++i) {
    const float value = BF16ToF32(x.data()[i].bits);
    if (i % 128 == 127) {
      EXPECT_TRUE(std::isnan(value)) << i;
    } else {
      EXPECT_EQ(value, F8E4M3ToF32(codes[i])) << i;
    }
  }
}

TEST(CudaEmbed, PlainRowsNeedNoBlockOf32) {
  const ops::PackedWeight w = ops::Pack(ops::RefTable(), DType::kF16, ops::RandomWeight(DType::kF16, 4, 40, 6), 4, 40);
  ops::ExpectSameBits(Expected(w, {3, 0}, 0), OnDevice(w.view, {3, 0}, 0));
}

TEST(CudaEmbed, RefusesWidthsItCannotServe) {
  for (const auto& [type, dim] : {std::pair{DType::kF32, 12}, {DType::kQ4_0, 40}, {DType::kBF16, 0}}) {
    const Embed op = {{nullptr, type, 4, dim}, nullptr, 0, 1, nullptr, 1, nullptr};
    EXPECT_EQ(Enqueue(nullptr, op).code(), absl::StatusCode::kInvalidArgument) << dim;
  }
}

}  // namespace
}  // namespace shoal::cuda
