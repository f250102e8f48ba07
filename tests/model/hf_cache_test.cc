#include "common/model/hf_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/testing/temp_dir.h"

namespace shoal::model {
namespace {

using testing::TempDir;
using testing::WriteFile;

// Sets the variables for one test and puts back what was there.
class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kNames) {
      const char* value = std::getenv(name);
      before_.emplace_back(value == nullptr ? "" : value);
      ::unsetenv(name);
    }
  }
  void TearDown() override {
    for (size_t i = 0; i < std::size(kNames); ++i) {
      before_[i].empty() ? ::unsetenv(kNames[i]) : ::setenv(kNames[i], before_[i].c_str(), 1);
    }
  }
  static constexpr const char* kNames[] = {"HF_HUB_CACHE", "HF_HOME", "HOME"};
  std::vector<std::string> before_;
  TempDir dir_;
};

TEST_F(HubCache, DirectoryByPrecedence) {
  ::setenv("HOME", "/h", 1);
  EXPECT_EQ(HubCacheDirectory(), "/h/.cache/huggingface/hub");
  ::setenv("HF_HOME", "/hf", 1);
  EXPECT_EQ(HubCacheDirectory(), "/hf/hub");
  ::setenv("HF_HUB_CACHE", "/cache", 1);
  EXPECT_EQ(HubCacheDirectory(), "/cache");
}

TEST_F(HubCache, FindsSnapshotsByBranchAndByCommit) {
  ::setenv("HF_HUB_CACHE", dir_.path().c_str(), 1);
  const std::string root = dir_ / "models--org--name";
  WriteFile(root + "/refs/main", "abc123\n");
  WriteFile(root + "/refs/v2", "def456");
  std::filesystem::create_directories(root + "/snapshots/abc123");
  std::filesystem::create_directories(root + "/snapshots/def456");
  std::string repository;
  EXPECT_EQ(*FindInHubCache("org/name", &repository), root + "/snapshots/abc123");
  EXPECT_EQ(*FindInHubCache("org/name@v2", &repository), root + "/snapshots/def456");
  EXPECT_EQ(*FindInHubCache("org/name@abc123", &repository), root + "/snapshots/abc123");
  EXPECT_EQ(repository, "org/name");
  const absl::Status missing = FindInHubCache("org/name@v3", &repository).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  for (const std::string& part : {dir_.path(), std::string("v3"), std::string("download org/name")}) {
    EXPECT_NE(missing.message().find(part), absl::string_view::npos) << missing;
  }
}

TEST_F(HubCache, NamesCannotLeaveTheCache) {
  for (const char* name : {"org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c@refs-1"})
    EXPECT_TRUE(IsRepositoryName(name)) << name;
  for (const char* name : {"", "name", "../name", "org/..", "org/name/more", "/org/name", "org/name@", "org/name@../x",
                           "org/na me", "org/", "-x/y"}) {
    EXPECT_FALSE(IsRepositoryName(name)) << name;
  }
  ::setenv("HF_HUB_CACHE", dir_.path().c_str(), 1);
  WriteFile(dir_ / "models--org--name/refs/main", "../../..");
  std::string repository;
  EXPECT_FALSE(FindInHubCache("org/name", &repository).ok());
}

}  // namespace
}  // namespace shoal::model
