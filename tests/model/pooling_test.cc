#include "common/model/pooling.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/testing/temp_dir.h"

namespace shoal::model {
namespace {

constexpr const char* kModules =
    R"([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}%s])";
constexpr const char* kNormalize =
    R"(, {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})";

// What is read from a directory with these files.
absl::StatusOr<ModelConfig> Read(const std::string& more_modules, const std::string& pooling) {
  const testing::TempDir dir;
  std::string modules = kModules;
  modules.replace(modules.find("%s"), 2, more_modules);
  testing::WriteFile(dir / "modules.json", modules);
  std::filesystem::create_directory(dir / "1_Pooling");
  testing::WriteFile(dir / "1_Pooling/config.json", pooling);
  ModelConfig c;
  c.pooling = Pooling::kLast;
  const auto texts = ReadPooling(dir.path(), &c);
  if (!texts.ok()) return texts.status();
  EXPECT_EQ(*texts, modules + pooling);
  return c;
}

TEST(Pooling, IsWhatSentenceTransformersSays) {
  const auto mean = Read(kNormalize, R"({"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                                         "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false})");
  ASSERT_TRUE(mean.ok()) << mean.status();
  EXPECT_EQ(mean->pooling, Pooling::kMean);
  EXPECT_TRUE(mean->normalise);
  const auto first = Read("", R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->pooling, Pooling::kFirst);
  EXPECT_FALSE(first->normalise);
  const auto last = Read("", R"({"embedding_dimension": 384, "pooling_mode": "lasttoken"})");
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->pooling, Pooling::kLast);
}

TEST(Pooling, WithoutModulesNothingIsSet) {
  const testing::TempDir dir;
  ModelConfig c;
  c.pooling = Pooling::kLast;
  c.normalise = false;
  EXPECT_EQ(*ReadPooling(dir.path(), &c), "");
  EXPECT_EQ(c.pooling, Pooling::kLast);
  EXPECT_FALSE(c.normalise);
}

TEST(Pooling, WhatIsNotSupportedIsRefusedByName) {
  const auto says = [](const absl::StatusOr<ModelConfig>& c, const char* part) {
    EXPECT_EQ(c.status().code(), absl::StatusCode::kInvalidArgument) << part;
    EXPECT_NE(c.status().message().find(part), absl::string_view::npos) << c.status();
  };
  says(Read("", R"({"pooling_mode_max_tokens": true})"), "pooling_mode");
  says(Read("", R"({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true})"), "exactly one");
  says(Read("", "{}"), "exactly one");
  says(Read(R"(, {"path": "3_Dense", "type": "sentence_transformers.models.Dense"})", R"({"pooling_mode": "mean"})"),
       "Dense");
  const testing::TempDir dir;
  ModelConfig c;
  for (const char* text : {"{}", "[", "5", R"([{"path": "../x", "type": "a.Pooling"}])", "[1]", "[]"}) {
    testing::WriteFile(dir / "modules.json", text);
    EXPECT_EQ(ReadPooling(dir.path(), &c).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace shoal::model
