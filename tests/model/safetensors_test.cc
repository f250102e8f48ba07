#include "common/model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

using testing::RawTensor;
using testing::SafetensorsFile;
using testing::Stored;
using testing::TempDir;
using testing::WriteFile;

std::string F32(std::vector<float> v) { return Stored(DType::kF32, v); }

// A file with this header text and so many bytes of data.
std::string WithHeader(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, 'd');
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> OpenOne(const TempDir& dir, std::string_view bytes) {
  WriteFile(dir / "model.safetensors", bytes);
  return OpenSafetensors(dir.path());
}

TEST(Safetensors, ReadsOneFile) {
  const TempDir dir;
  const auto file = OpenOne(dir, SafetensorsFile({{"a", {"F32", {2, 2}, F32({1, 2, 3, 4})}},
                                                  {"h", {"F16", {2}, Stored(DType::kF16, std::vector<float>{1, -2})}},
                                                  {"z", {"BF16", {1}, "\x80\x3F"}},
                                                  {"f", {"F8_E4M3", {1, 3}, "\x38\x7E\x80"}},
                                                  {"i", {"I8", {2}, "\x80\x7F"}}}));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 5u);
  EXPECT_EQ((*file)->Find("f")->dtype, DType::kF8E4M3);
  EXPECT_EQ((*file)->Find("i")->dtype, DType::kI8);
  const TensorEntry* a = (*file)->Find("a");
  float row[2] = {};
  ASSERT_TRUE((*file)->Read(*a, 8, std::as_writable_bytes(std::span(row))).ok());
  EXPECT_EQ(row[0], 3.0f);
  EXPECT_EQ((*file)->bytes_read(), 8);
  const TensorEntry* z = (*file)->Find("z");
  EXPECT_EQ(z->dtype, DType::kBF16);
  uint16_t bits = 0;
  ASSERT_TRUE((*file)->Read(*z, 0, std::as_writable_bytes(std::span(&bits, 1))).ok());
  EXPECT_EQ(bits, 0x3F80);
}

TEST(Safetensors, ReadsSeveralFilesThroughTheIndex) {
  const TempDir dir;
  testing::TinyModel model;
  testing::WriteTinyDirectory(model, dir.path(), 3);
  const auto file = OpenSafetensors(dir.path());
  ASSERT_TRUE(file.ok()) << file.status();
  for (const testing::TinyTensor& t : testing::TinyTensors(model)) {
    const TensorEntry* entry = (*file)->Find(t.hf_name);
    ASSERT_NE(entry, nullptr) << t.hf_name;
    EXPECT_EQ(entry->shape, t.shape);
    std::vector<float> values(t.values.size());
    ASSERT_TRUE((*file)->Read(*entry, 0, std::as_writable_bytes(std::span(values))).ok());
    EXPECT_EQ(values, t.values) << t.hf_name;
  }
}

TEST(Safetensors, BrokenIndexesAreRefused) {
  const TempDir dir;
  WriteFile(dir / "one.safetensors", SafetensorsFile({{"a", {"F32", {1}, F32({1})}}}));
  WriteFile(dir / "two.safetensors", SafetensorsFile({{"a", {"F32", {1}, F32({1})}}}));
  const auto open = [&](const std::string& index) {
    WriteFile(dir / "model.safetensors.index.json", index);
    return OpenSafetensors(dir.path()).status();
  };
  EXPECT_TRUE(open(R"({"weight_map": {"a": "one.safetensors"}})").ok());
  EXPECT_EQ(open(R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}})").code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(open(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})").code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(open(R"({"weight_map": {"a": "three.safetensors"}})").code(), absl::StatusCode::kNotFound);
  for (const char* bad : {R"({"weight_map": {"a": "../x/one.safetensors"}})", R"({"weight_map": {"a": 1}})",
                          R"({"weight_map": {}})", R"({"weight_map": []})", "{}", "nonsense"}) {
    EXPECT_EQ(open(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Safetensors, NothingToRead) {
  const TempDir dir;
  EXPECT_EQ(OpenSafetensors(dir.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(Safetensors, NamesEveryUnsupportedTypeAtOnce) {
  const TempDir dir;
  const auto file = OpenOne(
      dir, SafetensorsFile(
               {{"a", {"F8_E5M2", {4}, "1234"}}, {"b", {"F32", {1}, F32({1})}}, {"c", {"I64", {1}, "12345678"}}}));
  ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(file.status().message().find("a (F8_E5M2), c (I64)"), absl::string_view::npos) << file.status();
}

TEST(Safetensors, HeadersThatLieAreRefused) {
  const TempDir dir;
  ASSERT_TRUE(OpenOne(dir, WithHeader(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8)).ok());
  const std::pair<const char*, size_t> lies[] = {
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})", 9},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[65536,65536,65536,65536],"data_offsets":[0,0]}})", 0},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8},
      {R"({"a":5})", 0},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8},
      {R"([1])", 0},
      {"", 8},
      {"{", 8},
  };
  for (const auto& [header, data] : lies) EXPECT_FALSE(OpenOne(dir, WithHeader(header, data)).ok()) << header;
}

TEST(Safetensors, EveryTruncationAndWrongHeaderLengthIsReported) {
  const TempDir dir;
  const std::string file = SafetensorsFile({{"a", {"F32", {2}, F32({1, 2})}}, {"b", {"BF16", {3}, "123456"}}});
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_FALSE(OpenOne(dir, std::string_view(file).substr(0, size)).ok()) << size;
  uint64_t honest = 0;
  std::memcpy(&honest, file.data(), 8);
  for (const uint64_t lie :
       {uint64_t{0}, honest - 1, honest + 1, honest + 14, uint64_t{1} << 24, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string bytes = file;
    std::memcpy(bytes.data(), &lie, 8);
    EXPECT_FALSE(OpenOne(dir, bytes).ok()) << lie;
  }
}

}  // namespace
}  // namespace shoal::model
