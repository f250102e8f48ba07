#include "common/model/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "tests/testing/temp_dir.h"

namespace shoal::model {
namespace {

using testing::TempDir;
using testing::WriteFile;

TEST(File, ReadsRangesAndReportsTruncation) {
  const TempDir dir;
  WriteFile(dir / "f", "0123456789");
  const auto file = File::Open(dir / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), 10);
  char four[4] = {};
  ASSERT_TRUE((*file)->ReadAt(3, std::as_writable_bytes(std::span(four))).ok());
  EXPECT_EQ(std::string(four, 4), "3456");
  const absl::Status past = (*file)->ReadAt(8, std::as_writable_bytes(std::span(four)));
  EXPECT_EQ(past.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(past.message().find(dir / "f"), absl::string_view::npos) << past;
}

TEST(File, SaysWhyItCannotBeOpened) {
  const TempDir dir;
  EXPECT_EQ(File::Open(dir / "missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(File::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(File::Open(dir / "pipe").status().code(), absl::StatusCode::kInvalidArgument) << "and does not wait";
}

TEST(File, ReadTextIsBounded) {
  const TempDir dir;
  WriteFile(dir / "t", "hello");
  EXPECT_EQ(*ReadText(dir / "t", 5), "hello");
  EXPECT_EQ(ReadText(dir / "t", 4).status().code(), absl::StatusCode::kInvalidArgument);
}

// Published test vectors of FNV-1a, 64 bits.
TEST(File, Fnv1aIsThePublishedHash) {
  EXPECT_EQ(Fnv1a(""), 0xCBF29CE484222325u);
  EXPECT_EQ(Fnv1a("a"), 0xAF63DC4C8601EC8Cu);
  EXPECT_EQ(Fnv1a("foobar"), 0x85944171F73967E8u);
  EXPECT_EQ(Fnv1a("bar", Fnv1a("foo")), Fnv1a("foobar"));
}

}  // namespace
}  // namespace shoal::model
