#include "coordinator/server/canary_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/testing/temp_dir.h"

namespace shoal::server {
namespace {

using core::KnownCanary;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void WriteAll(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

class CanaryFileTest : public ::testing::Test {
 protected:
  std::vector<KnownCanary> Reread() const { return CanaryFile(dir_.path()).Known(); }

  const testing::TempDir dir_;
  const std::string path_ = absl::StrCat(dir_.path(), "/canaries");
  const KnownCanary a_{"numerics of r1 asked 1,2 for 4", {1, 2, 3, 4}}, b_{"b with  spaces ", {-7}};
};

TEST_F(CanaryFileTest, WhatWasLearnedIsKnownToTheNext) {
  CanaryFile file(dir_.path());
  EXPECT_TRUE(file.Known().empty());
  file.Flush();
  EXPECT_FALSE(std::filesystem::exists(path_)) << "there was nothing to write";
  file.Learn(a_);
  EXPECT_TRUE(Reread().empty()) << "before it is flushed";
  file.Flush();
  EXPECT_EQ(Reread(), (std::vector<KnownCanary>{a_}));
  file.Learn(b_);
  file.Learn({"two\nlines", {1}});
  file.Flush();
  EXPECT_EQ(Reread(), (std::vector<KnownCanary>{a_, b_}));
  struct stat status;
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
  CanaryFile next(dir_.path());
  next.Learn({a_.key, {9}});
  next.Flush();
  EXPECT_EQ(Reread(), (std::vector<KnownCanary>{b_, {a_.key, {9}}})) << "the newest last";
}

TEST_F(CanaryFileTest, OnlyTheNewestAreKept) {
  CanaryFile file(dir_.path());
  for (size_t i = 0; i < CanaryFile::kKept + 5; ++i) file.Learn({absl::StrCat("k", i), {1}});
  file.Flush();
  const std::vector<KnownCanary> known = Reread();
  ASSERT_EQ(known.size(), CanaryFile::kKept);
  EXPECT_EQ(known.front().key, "k5");
}

TEST_F(CanaryFileTest, ADamagedFileIsIgnoredAndReplaced) {
  CanaryFile file(dir_.path());
  file.Learn(a_);
  file.Learn(b_);
  file.Flush();
  const std::string whole = ReadAll(path_);
  ASSERT_FALSE(whole.empty());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    WriteAll(path_, damaged);
    EXPECT_TRUE(Reread().empty()) << "byte " << i;
    WriteAll(path_, whole.substr(0, i));
    for (const KnownCanary& known : Reread()) EXPECT_EQ(known, a_) << "cut at " << i;
  }
  WriteAll(path_, std::string(CanaryFile::kMaxBytes + 1, 'x'));
  EXPECT_TRUE(Reread().empty());
  CanaryFile next(dir_.path());
  next.Learn(b_);
  next.Flush();
  EXPECT_EQ(Reread(), (std::vector<KnownCanary>{b_}));
}

TEST_F(CanaryFileTest, WithoutADirectoryNothingIsKept) {
  CanaryFile none("");
  none.Learn(a_);
  none.Flush();
  EXPECT_TRUE(none.Known().empty());
  CanaryFile gone(absl::StrCat(dir_.path(), "/gone"));
  gone.Learn(a_);
  gone.Flush();
  EXPECT_EQ(gone.Known().size(), 1u) << "that it cannot be written ends nothing";
  EXPECT_TRUE(CanaryFile(absl::StrCat(dir_.path(), "/gone")).Known().empty());
}

}  // namespace
}  // namespace shoal::server
