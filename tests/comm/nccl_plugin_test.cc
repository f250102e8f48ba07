// The way to NCCL: a library that may not be there, or not be the right one.
#include "worker/comm/nccl_plugin.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "worker/comm/nccl_library.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

void ExpectRefused(const std::string& file, const ::testing::Matcher<std::string>& says) {
  const absl::Status status = NcclLibrary::Open(file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(says, HasSubstr("install NCCL 2.22 or later")));
}

TEST(NcclLibrary, WhatIsMissingOrOfAnotherVersionIsRefusedWithWhatHelps) {
  ExpectRefused("libno_such_nccl.so.2", AllOf(HasSubstr("cannot be loaded"), HasSubstr("libno_such_nccl.so.2")));
  ExpectRefused(FAKE_NCCL_ANCIENT, HasSubstr("NCCL 2.8.4 is too old"));
  ExpectRefused(FAKE_NCCL_OLD, HasSubstr("NCCL 2.21.5 is too old"));
  ExpectRefused(FAKE_NCCL_LATER, HasSubstr("NCCL 3.1.0 is of a later major version than 2"));
  ExpectRefused(FAKE_NCCL_NONE, HasSubstr("tells no version"));
}

TEST(NcclLibrary, FunctionsAreFoundOrNamed) {
  const auto library = NcclLibrary::Open(FAKE_NCCL);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(library->version(), "2.28.9");
  EXPECT_TRUE(library->Find("ncclGetUniqueId").ok());
  const absl::Status missing = library->Find("ncclSend").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("NCCL 2.28.9 has no ncclSend"));
}

TEST(NcclPlugin, IsOfAPlugInThatSomebodyHasOpened) {
  EXPECT_THAT(std::string(NcclOfPlugin(FAKE_NCCL_PLUGIN).status().message()), HasSubstr("has not been opened"));
  ASSERT_NE(::dlopen(FAKE_NCCL_PLUGIN, RTLD_NOW | RTLD_LOCAL), nullptr);
  const auto nccl = NcclOfPlugin(FAKE_NCCL_PLUGIN);
  ASSERT_TRUE(nccl.ok()) << nccl.status();
  EXPECT_EQ((*nccl)->Version().status().message(), "a fake");

  ASSERT_NE(::dlopen(FAKE_NCCL, RTLD_NOW | RTLD_LOCAL), nullptr);
  EXPECT_THAT(std::string(NcclOfPlugin(FAKE_NCCL).status().message()), HasSubstr("has no shoal_nccl()"));
}

// The real one, where it was built: its NCCL is found along its RUNPATH, and makes ids without a device.
TEST(NcclPlugin, TheRealOneFindsItsLibrary) {
  const std::string path = REAL_PLUGIN;
  if (path.empty()) GTEST_SKIP() << "built without CUDA";
  ASSERT_NE(::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), nullptr) << ::dlerror();
  const auto nccl = NcclOfPlugin(path);
  ASSERT_TRUE(nccl.ok()) << nccl.status();
  const auto version = (*nccl)->Version();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_THAT(*version, MatchesRegex("2\\.[0-9]+\\.[0-9]+"));
  std::set<NcclId> ids;
  for (int i = 0; i < 3; ++i) {
    const auto id = (*nccl)->MakeId();
    ASSERT_TRUE(id.ok()) << id.status();
    ids.insert(*id);
  }
  EXPECT_EQ(ids.size(), 3u);
}

}  // namespace
}  // namespace shoal::comm
