#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "common/base/rng.h"
#include "common/model/checkpoint.h"
#include "common/model/gguf.h"
#include "common/model/safetensors.h"
#include "common/model/tensor_table.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

constexpr int kRows = 48, kColumns = 160;

// One matrix per weight type, and a norm, with nothing but zeros in the file.
std::shared_ptr<const Checkpoint> Zeros() {
  const testing::TempDir dir;
  testing::GgufWriter w;
  const std::vector<float> zeros(kRows * kColumns, 0.0f);
  for (const auto& [type, number] : {std::pair{DType::kF32, 0u},
                                     {DType::kF16, 1u},
                                     {DType::kBF16, 30u},
                                     {DType::kQ8_0, 8u},
                                     {DType::kQ4_0, 2u},
                                     {DType::kQ4_1, 3u}}) {
    w.Tensor(Info(type).name, {kRows, kColumns}, number, testing::Stored(type, zeros));
  }
  w.Tensor("norm", {kColumns}, 0, testing::Stored(DType::kF32, std::span(zeros).first(kColumns)));
  testing::WriteFile(dir / "m.gguf", w.Build().bytes);
  return *GgufFile::Open(dir / "m.gguf");
}

std::vector<std::byte> Bytes(const Checkpoint& c, const TensorEntry& t, int64_t offset, int64_t count) {
  std::vector<std::byte> out(static_cast<size_t>(count));
  EXPECT_TRUE(c.Read(t, offset, out).ok());
  return out;
}

std::vector<float> Values(const Checkpoint& c, const TensorEntry& t) {
  const std::vector<std::byte> bytes = Bytes(c, t, 0, t.bytes);
  std::vector<float> out(static_cast<size_t>(t.shape.size() == 1 ? kColumns : kRows * kColumns));
  DequantiseRow(t.dtype, bytes.data(), static_cast<int64_t>(out.size()), out.data());
  return out;
}

TEST(Dummy, AnyRangeIsThatPartOfTheWhole) {
  const auto dummy = MakeDummyCheckpoint(Zeros(), 7);
  for (const TensorEntry& t : dummy->tensors()) {
    const std::vector<std::byte> whole = Bytes(*dummy, t, 0, t.bytes);
    for (uint64_t i = 0; i < 200; ++i) {
      const auto begin = static_cast<int64_t>(RandomBits(1, 2, 2 * i) % static_cast<uint64_t>(t.bytes));
      const auto count = static_cast<int64_t>(RandomBits(1, 2, 2 * i + 1) % static_cast<uint64_t>(t.bytes - begin + 1));
      const std::vector<std::byte> part = Bytes(*dummy, t, begin, count);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin))
          << t.name << " " << begin << " " << count;
    }
  }
}

TEST(Dummy, ValuesLookLikeWeights) {
  const auto dummy = MakeDummyCheckpoint(Zeros(), 7);
  for (const TensorEntry& t : dummy->tensors()) {
    const std::vector<float> values = Values(*dummy, t);
    double sum = 0, squares = 0;
    for (const float v : values) {
      ASSERT_TRUE(std::isfinite(v));
      sum += v;
      squares += static_cast<double>(v) * v;
    }
    const double n = static_cast<double>(values.size()), mean = sum / n,
                 deviation = std::sqrt(squares / n - mean * mean);
    const bool norm = t.name == "norm";
    EXPECT_NEAR(mean, norm ? 1.0 : 0.0, 0.005) << t.name;
    EXPECT_NEAR(deviation, norm ? 0.0255 : 0.02, 0.004) << t.name;
  }
}

// One matrix of each type of one byte, scaled row by row, all at once, or not at all.
std::shared_ptr<const Checkpoint> ZerosOfOneByte() {
  const testing::TempDir dir;
  std::map<std::string, testing::RawTensor> tensors;
  const std::string matrix(kRows * kColumns, '\0'), factors(kRows * 4, '\0');
  for (const char* type : {"F8_E4M3", "I8"}) {
    tensors[std::string(type) + ".rows.weight"] = {type, {kRows, kColumns}, matrix};
    tensors[std::string(type) + ".rows.weight_scale"] = {"F32", {kRows, 1}, factors};
    tensors[std::string(type) + ".flat.weight"] = {type, {kRows, kColumns}, matrix};
    tensors[std::string(type) + ".flat.weight_scale"] = {"BF16", {kRows}, factors.substr(kRows * 2)};
    tensors[std::string(type) + ".whole.weight"] = {type, {kRows, kColumns}, matrix};
    tensors[std::string(type) + ".whole.weight_scale"] = {"F32", {}, factors.substr(0, 4)};
  }
  tensors["F8_E4M3.bare.weight"] = {"F8_E4M3", {kRows, kColumns}, matrix};
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  return *OpenSafetensors(dir.path());
}

TEST(Dummy, ScaledBytesLookLikeWeights) {
  const auto dummy = MakeDummyCheckpoint(ZerosOfOneByte(), 7);
  int matrices = 0;
  for (const TensorEntry& t : dummy->tensors()) {
    if (!IsByte(t.dtype)) continue;
    std::vector<float> values = Values(*dummy, t), scale(kRows, 1);
    if (const TensorEntry* s = FindRowScale(TensorIndex(*dummy), t); s != nullptr) {
      const auto stored = static_cast<size_t>(s->shape.empty() ? 1 : kRows);
      DequantiseRow(s->dtype, Bytes(*dummy, *s, 0, s->bytes).data(), static_cast<int64_t>(stored), scale.data());
      std::fill(scale.begin() + static_cast<int64_t>(stored), scale.end(), scale[0]);
      EXPECT_EQ(std::set<float>(scale.begin(), scale.end()).size() > 10, stored > 1) << t.name;
    }
    double squares = 0, sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double v = static_cast<double>(values[i]) * scale[i / kColumns];
      ASSERT_LT(std::abs(v), 0.06) << t.name;
      sum += v;
      squares += v * v;
    }
    const double n = static_cast<double>(values.size());
    EXPECT_NEAR(sum / n, 0, 0.0015) << t.name;
    EXPECT_NEAR(std::sqrt(squares / n), 0.019, 0.002) << t.name;
    ++matrices;
  }
  EXPECT_EQ(matrices, 7);
}

TEST(Dummy, KeyedBySeedTensorAndIndex) {
  const auto like = Zeros();
  const auto a = MakeDummyCheckpoint(like, 7), again = MakeDummyCheckpoint(like, 7), b = MakeDummyCheckpoint(like, 8);
  const TensorEntry& t = *a->Find("f32");
  EXPECT_EQ(Values(*a, t), Values(*again, t));
  EXPECT_NE(Values(*a, t), Values(*b, t));
  EXPECT_NE(Values(*a, t), Values(*a, *a->Find("f16")));
  EXPECT_EQ(a->header_digest(), again->header_digest());
  EXPECT_NE(a->header_digest(), b->header_digest());
  EXPECT_NE(a->header_digest(), like->header_digest());
}

// Fixed for good: another build, compiler or device must make the same bytes.
TEST(Dummy, TheSameToTheBitEverywhere) {
  const auto dummy = MakeDummyCheckpoint(Zeros(), 20250101);
  uint64_t hash = 0;
  for (const TensorEntry& t : dummy->tensors()) {
    for (const std::byte b : Bytes(*dummy, t, 0, t.bytes)) hash = hash * 1099511628211u + static_cast<uint64_t>(b);
  }
  EXPECT_EQ(hash, 16347427967998424018u) << "the bytes changed";
}

TEST(Dummy, BytesTooAreTheSameToTheBitEverywhere) {
  const auto dummy = MakeDummyCheckpoint(ZerosOfOneByte(), 20250101);
  uint64_t hash = 0;
  for (const TensorEntry& t : dummy->tensors()) {
    const std::vector<std::byte> whole = Bytes(*dummy, t, 0, t.bytes);
    for (const std::byte b : whole) hash = hash * 1099511628211u + static_cast<uint64_t>(b);
    for (int64_t begin = 0; begin < t.bytes; begin += 7) {
      const int64_t count = std::min<int64_t>(3, t.bytes - begin);
      const std::vector<std::byte> part = Bytes(*dummy, t, begin, count);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin)) << t.name << " " << begin;
    }
  }
  EXPECT_EQ(hash, 6397566462850297886u) << "the bytes changed";
}

TEST(Dummy, ReadsNoFileAndCountsWhatItMade) {
  const auto like = Zeros();  // its file is gone by now
  const auto dummy = MakeDummyCheckpoint(like, 7);
  const TensorEntry& t = *dummy->Find("q4_1");
  Bytes(*dummy, t, 20, 40);
  EXPECT_EQ(like->bytes_read(), 0);
  EXPECT_EQ(dummy->bytes_read(), 40);
  std::byte one[1];
  EXPECT_FALSE(dummy->Read(t, t.bytes, one).ok());
}

}  // namespace
}  // namespace shoal::model
