#include "common/model/quantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "common/base/rng.h"
#include "common/model/arrange.h"
#include "common/model/families.h"
#include "common/model/safetensors.h"
#include "common/model/tensor_table.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

using testing::TinyModel;

struct Model {
  ModelConfig config;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::map<std::string, std::vector<float>> values;  // as stored
};

// `change` may change values before they are stored.
template <typename Change>
Model Open(DType type, Change change) {
  const TinyModel tiny = {.matrices = type};
  Model out{*ConfigFromJson(testing::TinyConfigJson({}), ""), nullptr, {}};
  std::map<std::string, testing::RawTensor> tensors;
  for (testing::TinyTensor& t : testing::TinyTensors(tiny)) {
    change(t);
    const bool narrow = t.shape.size() == 2 && type == DType::kBF16;
    const std::string bytes = testing::Stored(narrow ? DType::kBF16 : DType::kF32, t.values);
    out.values[t.name].resize(t.values.size());
    DequantiseRow(narrow ? DType::kBF16 : DType::kF32, bytes.data(), static_cast<int64_t>(t.values.size()),
                  out.values[t.name].data());
    tensors[t.hf_name] = {narrow ? "BF16" : "F32", t.shape, bytes};
  }
  const testing::TempDir dir;
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  out.checkpoint = *Arrange(out.config, NamesOf(out.config.architecture), *OpenSafetensors(dir.path()));
  return out;
}
Model Open(DType type) {
  return Open(type, [](testing::TinyTensor&) {});
}

std::string All(const Checkpoint& c, const TensorEntry& t) {
  std::string out(static_cast<size_t>(t.bytes), '\0');
  EXPECT_TRUE(c.Read(t, 0, std::as_writable_bytes(std::span(out))).ok()) << t.name;
  return out;
}

TEST(QuantiseAtLoad, MatricesOfLayersBecomeFp8AndNothingElse) {
  for (const DType stored : {DType::kF32, DType::kBF16}) {
    const Model m = Open(stored);
    const auto quantised = QuantiseAtLoad(m.checkpoint, m.config, DType::kF8E4M3);
    EXPECT_TRUE(CheckTensors(m.config, *quantised).ok()) << CheckTensors(m.config, *quantised);
    int matrices = 0;
    for (const TensorEntry& t : m.checkpoint->tensors()) {
      const TensorEntry& made = *quantised->Find(t.name);
      if (t.shape.size() == 1 || t.name == "embedding") {
        EXPECT_EQ(All(*quantised, made), All(*m.checkpoint, t)) << t.name;
        continue;
      }
      ++matrices;
      const testing::StoredRows wanted = testing::StoredByRows(DType::kF8E4M3, m.values.at(t.name), t.shape[1]);
      EXPECT_EQ(All(*quantised, made), wanted.codes) << t.name;
      EXPECT_EQ(All(*quantised, *FindRowScale(TensorIndex(*quantised), made)),
                testing::Stored(DType::kF32, wanted.scales));
    }
    EXPECT_EQ(matrices, 2 * 7);
  }
}

TEST(QuantiseAtLoad, Int8IsWithinHalfAStep) {
  const Model m = Open(DType::kBF16);
  const auto quantised = QuantiseAtLoad(m.checkpoint, m.config, DType::kI8);
  const TensorEntry& t = *quantised->Find("layers.1.ffn.down");
  const std::string codes = All(*quantised, t),
                    scale_bytes = All(*quantised, *FindRowScale(TensorIndex(*quantised), t));
  std::vector<float> scales(static_cast<size_t>(t.shape[0]));
  std::memcpy(scales.data(), scale_bytes.data(), scale_bytes.size());
  int largest = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const float scale = scales[i / static_cast<size_t>(t.shape[1])];
    const int code = static_cast<int8_t>(codes[i]);
    ASSERT_NEAR(static_cast<float>(code) * scale, m.values.at(t.name)[i], 0.5001f * scale);
    largest = std::max(largest, std::abs(code));
  }
  EXPECT_EQ(largest, 127);
}

TEST(QuantiseAtLoad, AnyRangeIsThatPartOfTheWhole) {
  const Model m = Open(DType::kF32);
  const auto fp8 = QuantiseAtLoad(m.checkpoint, m.config, DType::kF8E4M3);
  const auto int4 = QuantiseAtLoad(m.checkpoint, m.config, DType::kI4);
  for (const auto& [quantised, name] : {std::pair{fp8, "layers.0.attn.o"}, std::pair{int4, "layers.0.attn.o"},
                                        std::pair{fp8, "layers.0.attn.o_scale"}, std::pair{fp8, "final_norm"}}) {
    const TensorEntry& t = *quantised->Find(name);
    const std::string whole = All(*quantised, t);
    for (uint64_t i = 0; i < 100; ++i) {
      const auto begin = static_cast<int64_t>(RandomBits(1, 2, 2 * i) % static_cast<uint64_t>(t.bytes));
      const auto count = RandomBits(1, 2, 2 * i + 1) % static_cast<uint64_t>(t.bytes - begin + 1);
      std::string part(count, '\0');
      ASSERT_TRUE(quantised->Read(t, begin, std::as_writable_bytes(std::span(part))).ok());
      ASSERT_EQ(part, whole.substr(static_cast<size_t>(begin), count)) << name << " " << begin;
    }
    std::byte one[1];
    EXPECT_FALSE(quantised->Read(t, t.bytes, one).ok());
  }
}

TEST(QuantiseAtLoad, OddRows) {
  const std::string name = "layers.0.ffn.up";
  const Model m = Open(DType::kF32, [&](testing::TinyTensor& t) {
    if (t.name != name) return;
    std::fill_n(t.values.begin(), 64, 0.0f);
    t.values[64 + 5] = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(t.values.begin() + 128, 64, 1e-45f);
    t.values[192 + 7] = std::numeric_limits<float>::infinity();
  });
  const auto fp8 = QuantiseAtLoad(m.checkpoint, m.config, DType::kF8E4M3);
  const std::string codes = All(*fp8, *fp8->Find(name)), scales = All(*fp8, *fp8->Find(name + "_scale"));
  float first[3];
  std::memcpy(first, scales.data(), sizeof(first));
  EXPECT_EQ(codes.substr(0, 64), std::string(64, '\0'));
  EXPECT_EQ(first[0], 1.0f);
  EXPECT_EQ(codes[64 + 5] & 0x7F, 0x7F) << "not a number";
  EXPECT_NE(codes[64 + 6] & 0x7F, 0x7F);
  EXPECT_TRUE(std::isfinite(first[1]) && first[1] > 0);
  EXPECT_EQ(first[2], 1.0f) << "too small to be scaled";
  EXPECT_EQ(codes[192 + 7] & 0x7F, 0x7F) << "no code is infinite";
  const auto int8 = QuantiseAtLoad(m.checkpoint, m.config, DType::kI8);
  std::vector<std::byte> bytes(64 * 96);
  const absl::Status refused = int8->Read(*int8->Find(name), 0, bytes);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find(name), absl::string_view::npos) << refused;
}

// Every value is within half a step of its group's, or where the last code ends.
TEST(QuantiseAtLoad, Int4IsWithinHalfAStepOfItsGroup) {
  const std::string name = "layers.1.ffn.down";  // rows of 96: one group that is not whole
  const Model m = Open(DType::kF32, [&](testing::TinyTensor& t) {
    if (t.name != name) return;
    std::fill_n(t.values.begin(), 96, 0.0f);                                          // zeros
    for (size_t i = 96; i < 192; ++i) t.values[i] = 0.25f + std::abs(t.values[i]);    // nothing below zero
    for (size_t i = 192; i < 288; ++i) t.values[i] = -0.25f - std::abs(t.values[i]);  // nor above it
    std::fill_n(t.values.begin() + 288, 96, 1e-12f);                                  // below what f16 has
    t.values[384 + 40] = std::numeric_limits<float>::infinity();
  });
  const auto quantised = QuantiseAtLoad(m.checkpoint, m.config, DType::kI4);
  ASSERT_TRUE(CheckTensors(m.config, *quantised).ok()) << CheckTensors(m.config, *quantised);
  const TensorEntry& t = *quantised->Find(name);
  EXPECT_EQ(t.dtype, DType::kI4);
  EXPECT_EQ(FindRowScale(TensorIndex(*quantised), t), nullptr);
  const std::string bytes = All(*quantised, t);
  const auto* const blocks = reinterpret_cast<const BlockI4*>(bytes.data());
  const std::vector<float>& wanted = m.values.at(name);
  std::vector<float> got(wanted.size());
  DequantiseRow(DType::kI4, blocks, static_cast<int64_t>(got.size()), got.data());
  std::map<int, int> codes;
  for (size_t i = 0; i < got.size(); ++i) {
    const BlockI4& block = blocks[i / 32];
    const float d = F16ToF32(block.d);
    if (i / 96 == 4) {
      EXPECT_TRUE(std::isnan(got[i])) << "infinity is in its group";
      continue;
    }
    ASSERT_NEAR(got[i], wanted[i], i / 96 == 3 ? 1e-12f : 0.51f * d) << i;
    EXPECT_EQ(block.d, blocks[i / 96 * 3].d) << "one group";
    EXPECT_EQ(block.z, blocks[i / 96 * 3].z);
    const size_t at = i % 32;
    ++codes[at < 16 ? block.q[at] & 15 : block.q[at - 16] >> 4];
  }
  EXPECT_EQ(codes.size(), 16u) << "codes that nothing has";
  EXPECT_EQ(blocks[3].z, 0) << "of values above zero";
  EXPECT_EQ(blocks[6].z, 15) << "of values below zero";
}

TEST(QuantiseAtLoad, Int4GroupsAre128Columns) {
  const std::string name = "layers.0.ffn.down";
  TinyModel wide;
  wide.ffn = 320;
  ModelConfig config = *ConfigFromJson(testing::TinyConfigJson(wide), "");
  std::map<std::string, testing::RawTensor> tensors;
  for (testing::TinyTensor& t : testing::TinyTensors(wide)) {
    if (t.name == name) t.values[127] = 3.0f;  // the last of the first group
    tensors[t.hf_name] = {"F32", t.shape, testing::Stored(DType::kF32, t.values)};
  }
  const testing::TempDir dir;
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  const auto quantised =
      QuantiseAs("int4", *Arrange(config, NamesOf(config.architecture), *OpenSafetensors(dir.path())), config);
  ASSERT_TRUE(quantised.ok()) << quantised.status();
  const std::string bytes = All(**quantised, *(*quantised)->Find(name));
  const auto* const blocks = reinterpret_cast<const BlockI4*>(bytes.data());
  for (int b = 1; b < 10; ++b) EXPECT_EQ(blocks[b].d == blocks[b - 1].d, b != 4 && b != 8) << b;
  EXPECT_GT(F16ToF32(blocks[3].d), 0.2f);
  EXPECT_LT(F16ToF32(blocks[4].d), 0.1f);
}

TEST(QuantiseAtLoad, Int4NeedsWholeBlocks) {
  const Model m = Open(DType::kF32);
  ModelConfig odd = m.config;
  odd.ffn = 80;
  const absl::Status refused = QuantiseAs("int4", m.checkpoint, odd).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("layers.0.ffn.down has rows of 80"), absl::string_view::npos) << refused;
}

TEST(QuantiseAtLoad, ByName) {
  const Model m = Open(DType::kF32);
  EXPECT_EQ(QuantiseAs("auto", m.checkpoint, m.config).value(), m.checkpoint);
  const auto int8 = QuantiseAs("int8", m.checkpoint, m.config);
  ASSERT_TRUE(int8.ok());
  EXPECT_EQ((*int8)->Find("layers.0.ffn.up")->dtype, DType::kI8);
  for (const char* unknown : {"", "f16", "q8_0", "int5"}) {
    EXPECT_EQ(QuantiseAs(unknown, m.checkpoint, m.config).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(QuantiseAtLoad, IsAnotherRevisionAndLeavesQuantisedFilesAlone) {
  const Model m = Open(DType::kF32);
  const auto fp8 = QuantiseAtLoad(m.checkpoint, m.config, DType::kF8E4M3);
  const auto int8 = QuantiseAtLoad(m.checkpoint, m.config, DType::kI8);
  EXPECT_NE(fp8->header_digest(), m.checkpoint->header_digest());
  EXPECT_NE(fp8->header_digest(), int8->header_digest());
  const auto again = QuantiseAtLoad(fp8, m.config, DType::kI8);
  EXPECT_EQ(again->tensors().size(), fp8->tensors().size());
  EXPECT_EQ(again->Find("layers.0.ffn.up")->dtype, DType::kF8E4M3);
}

}  // namespace
}  // namespace shoal::model
