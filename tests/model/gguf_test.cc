#include "common/model/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

using testing::GgufWriter;
using testing::Stored;
using testing::TempDir;
using testing::WriteFile;

absl::StatusOr<std::shared_ptr<const GgufFile>> OpenBytes(const TempDir& dir, std::string_view bytes) {
  WriteFile(dir / "m.gguf", bytes);
  return GgufFile::Open(dir / "m.gguf");
}

std::string Floats(int n, float first) {
  std::vector<float> v;
  for (int i = 0; i < n; ++i) v.push_back(first + static_cast<float>(i));
  return Stored(DType::kF32, v);
}

GgufWriter TwoTensors() {
  GgufWriter w;
  w.String("general.architecture", "llama");
  w.Tensor("a", {2, 3}, 0, Floats(6, 0));
  w.Tensor("b", {32}, 8, Stored(DType::kQ8_0, std::vector<float>(32, 2.0f)));
  return w;
}

TEST(Gguf, ReadsMetadataOfEveryType) {
  GgufWriter w = TwoTensors();
  w.Uint32("u", 7);
  w.Float32("f", 1.5f);
  w.Bool("b", true);
  w.Strings("list", {"x", "", "long enough to leave the small-string buffer"});
  w.Int32s("ints", {-1, 2});
  w.Raw("i8", 1, "\xFE");
  w.Raw("u64", 10, std::string_view("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8));
  w.Raw("f64", 12, std::string_view("\0\0\0\0\0\0\xF8\x3F", 8));  // 1.5
  const TempDir dir;
  const auto file = OpenBytes(dir, w.Build().bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*(*file)->GetInt("u"), 7);
  EXPECT_EQ(*(*file)->GetInt("i8"), -2);
  EXPECT_EQ(*(*file)->GetFloat("f"), 1.5);
  EXPECT_EQ(*(*file)->GetFloat("f64"), 1.5);
  EXPECT_TRUE(*(*file)->GetBool("b"));
  EXPECT_EQ(*(*file)->GetString("general.architecture"), "llama");
  EXPECT_EQ(std::get<std::vector<std::string>>((*file)->metadata().at("list"))[2].size(), 44u);
  EXPECT_EQ(std::get<std::vector<int64_t>>((*file)->metadata().at("ints")), (std::vector<int64_t>{-1, 2}));
  EXPECT_FALSE((*file)->GetInt("u64").ok()) << "does not fit";
  EXPECT_FALSE((*file)->Has("nothing"));
  for (const absl::Status& s : {(*file)->GetInt("f").status(), (*file)->GetFloat("u").status(),
                                (*file)->GetBool("u").status(), (*file)->GetString("nothing").status()}) {
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << s;
  }
}

TEST(Gguf, ReadsTensorsAndCountsBytes) {
  const TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    const auto file = OpenBytes(dir, TwoTensors().Build(version).bytes);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ((*file)->tensors().size(), 2u);
    const TensorEntry* a = (*file)->Find("a");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 3}));
    float row[3] = {};
    ASSERT_TRUE((*file)->Read(*a, 12, std::as_writable_bytes(std::span(row))).ok());
    EXPECT_EQ(row[0], 3.0f);
    EXPECT_EQ(row[2], 5.0f);
    EXPECT_EQ((*file)->bytes_read(), 12);
    EXPECT_FALSE((*file)->Read(*a, 16, std::as_writable_bytes(std::span(row))).ok()) << "past its end";
    EXPECT_FALSE((*file)->Read(*a, -4, std::as_writable_bytes(std::span(row))).ok());
    const TensorEntry* b = (*file)->Find("b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->dtype, DType::kQ8_0);
    EXPECT_EQ(b->bytes, 34);
    EXPECT_EQ((*file)->Find("c"), nullptr);
  }
}

TEST(Gguf, RefusesForeignFilesAndVersions) {
  const TempDir dir;
  EXPECT_EQ(OpenBytes(dir, "").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenBytes(dir, "not a model, but long enough for a header").status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto v1 = OpenBytes(dir, TwoTensors().Build(1).bytes);
  EXPECT_NE(v1.status().message().find("version 1"), absl::string_view::npos) << v1.status();
  const auto big_endian = OpenBytes(dir, TwoTensors().Build(0x03000000).bytes);
  EXPECT_FALSE(big_endian.ok());
}

TEST(Gguf, NamesEveryUnsupportedTypeAtOnce) {
  GgufWriter w = TwoTensors();
  w.Tensor("c", {256}, 12, std::string(144, 'x'));
  w.Tensor("d", {32}, 6, std::string(22, 'x'));
  w.Tensor("e", {32}, 77, std::string(22, 'x'));
  const TempDir dir;
  const auto file = OpenBytes(dir, w.Build().bytes);
  ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"c (Q4_K)", "d (Q5_0)", "e (number 77)"}) {
    EXPECT_NE(file.status().message().find(part), absl::string_view::npos) << file.status();
  }
}

TEST(Gguf, RefusesDuplicatesOverlapsAndMisalignment) {
  const TempDir dir;
  GgufWriter twice = TwoTensors();
  twice.Tensor("a", {32}, 0, Floats(32, 0));
  EXPECT_EQ(OpenBytes(dir, twice.Build().bytes).status().code(), absl::StatusCode::kDataLoss);
  GgufWriter key = TwoTensors();
  key.Uint32("general.architecture", 1);
  EXPECT_EQ(OpenBytes(dir, key.Build().bytes).status().code(), absl::StatusCode::kDataLoss);
  GgufWriter::File file = TwoTensors().Build();
  for (const auto& [offset, width, what] : file.fields) {
    if (what != "b: offset") continue;
    file.bytes[offset] = 0;  // on top of a
    EXPECT_NE(OpenBytes(dir, file.bytes).status().message().find("overlap"), absl::string_view::npos);
    file.bytes[offset] = 33;
    EXPECT_NE(OpenBytes(dir, file.bytes).status().message().find("alignment"), absl::string_view::npos);
  }
  for (const uint32_t alignment : {0u, 3u, 8192u, 1u << 31}) {
    GgufWriter aligned = TwoTensors();
    aligned.Uint32("general.alignment", alignment);
    EXPECT_EQ(OpenBytes(dir, aligned.Build().bytes).status().code(), absl::StatusCode::kDataLoss) << alignment;
  }
}

TEST(Gguf, RefusesNestedArraysAndUnknownValueTypes) {
  const TempDir dir;
  GgufWriter nested = TwoTensors();
  nested.Raw("deep", 9, std::string_view("\x09\0\0\0\x01\0\0\0\0\0\0\0", 12));
  EXPECT_NE(OpenBytes(dir, nested.Build().bytes).status().message().find("deep"), absl::string_view::npos);
  GgufWriter unknown = TwoTensors();
  unknown.Raw("odd", 13, "\0\0\0\0");
  EXPECT_FALSE(OpenBytes(dir, unknown.Build().bytes).ok());
  GgufWriter boolean = TwoTensors();
  boolean.Raw("maybe", 7, "\x02");
  EXPECT_EQ(OpenBytes(dir, boolean.Build().bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Gguf, EveryTruncationIsReported) {
  const TempDir dir;
  const GgufWriter::File file = TwoTensors().Build();
  for (size_t size = 0; size < file.bytes.size(); ++size) {
    EXPECT_FALSE(OpenBytes(dir, std::string_view(file.bytes).substr(0, size)).ok()) << size;
  }
  EXPECT_TRUE(OpenBytes(dir, file.bytes).ok());
}

TEST(Gguf, TruncationAfterOpeningIsDataLoss) {
  const TempDir dir;
  const auto file = OpenBytes(dir, TwoTensors().Build().bytes);
  ASSERT_TRUE(file.ok());
  std::filesystem::resize_file(dir / "m.gguf", 100);
  const TensorEntry* b = (*file)->Find("b");
  std::vector<std::byte> dst(static_cast<size_t>(b->bytes));
  EXPECT_EQ((*file)->Read(*b, 0, dst).code(), absl::StatusCode::kDataLoss);
}

// Whatever a size field says, opening answers, and what it accepts can be read to the last byte.
TEST(Gguf, LiesAboutAnySizeAreSurvived) {
  const TempDir dir;
  testing::TinyModel model;
  model.layers = 1;
  model.matrices = DType::kQ4_0;
  const GgufWriter::File honest = testing::TinyGguf(model).Build();
  ASSERT_GT(honest.fields.size(), 400u);
  int refused = 0, accepted = 0;
  for (size_t i = 0; i < honest.fields.size(); i += i < 80 || i > 640 ? 1 : 37) {  // most fields are the vocabulary's
    const GgufWriter::Field& f = honest.fields[i];
    uint64_t said = 0;
    std::memcpy(&said, honest.bytes.data() + f.offset, f.width);
    for (const uint64_t lie : {uint64_t{0}, said + 1, said - 1, said * 2, uint64_t{1} << 31, uint64_t{1} << 40,
                               uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{31}}) {
      std::string bytes = honest.bytes;
      std::memcpy(bytes.data() + f.offset, &lie, f.width);
      if (bytes == honest.bytes) continue;
      const auto file = OpenBytes(dir, bytes);
      if (!file.ok()) {
        ++refused;
        EXPECT_FALSE(file.status().message().empty());
        continue;
      }
      ++accepted;
      const bool harmless = f.what.find(": offset") == std::string::npos && lie > honest.bytes.size() && f.width == 8;
      EXPECT_FALSE(harmless) << f.what << " = " << lie << " was believed";
      for (const TensorEntry& t : (*file)->tensors()) {
        std::vector<std::byte> dst(static_cast<size_t>(t.bytes));
        EXPECT_TRUE((*file)->Read(t, 0, dst).ok()) << f.what << " = " << lie;
      }
    }
  }
  EXPECT_GT(refused, 700);
  EXPECT_LT(accepted, refused / 10);
}

TEST(Gguf, HeaderDigestSeesEveryHeaderByte) {
  const TempDir dir;
  const auto one = OpenBytes(dir, TwoTensors().Build().bytes);
  ASSERT_TRUE(one.ok());
  const uint64_t digest = (*one)->header_digest();
  GgufWriter other;
  other.String("general.architecture", "llamb");
  other.Tensor("a", {2, 3}, 0, Floats(6, 0));
  other.Tensor("b", {32}, 8, Stored(DType::kQ8_0, std::vector<float>(32, 2.0f)));
  const auto two = OpenBytes(dir, other.Build().bytes);
  ASSERT_TRUE(two.ok());
  EXPECT_NE(digest, (*two)->header_digest());
}

}  // namespace
}  // namespace shoal::model
