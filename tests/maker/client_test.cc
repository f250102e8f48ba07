#include "worker/maker/client.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/testing/temp_dir.h"

namespace shoal::maker {
namespace {

// A shell script stands in for the maker: it sees the same arguments and descriptors.
class ClientTest : public ::testing::Test {
 protected:
  Makers Script(const std::string& body) {
    const std::string path = dir_ / absl::StrCat("script-", scripts_++);
    testing::WriteFile(path, absl::StrCat("#!/bin/sh\n", body, "\n"));
    EXPECT_EQ(0, ::chmod(path.c_str(), 0755));
    return {path, &cancelled_};
  }

  testing::TempDir dir_;
  int scripts_ = 0;
  std::atomic<bool> cancelled_{false};
};

TEST_F(ClientTest, AnEndWithoutAnAnswerIsAnErrorWithTheLastLine) {
  const absl::Status status = Script("echo first >&2; echo boom >&2; exit 7").KvCache(0, 100).status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_NE(std::string::npos, status.message().find("exited with 7: boom")) << status;
}

TEST_F(ClientTest, ASignalIsNamed) {
  const absl::Status status = Script("kill -9 $$").Measure(0, 0).status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_NE(std::string::npos, status.message().find("killed by signal 9")) << status;
}

TEST_F(ClientTest, ItIsTheVerbMakerWithASocketAndNothingElse) {
  const absl::Status status =
      Script("[ -S /proc/self/fd/3 ] && [ ! -e /proc/$$/fd/4 ] && echo \"words: $*\" >&2; exit 1").Probe().status();
  EXPECT_NE(std::string::npos, status.message().find("exited with 1: words: maker")) << status;
}

TEST_F(ClientTest, ACancelledOneIsKilled) {
  const std::string pid_file = dir_ / "pid";
  const Makers makers = Script(absl::StrCat("echo $$ > ", pid_file, ".part; mv ", pid_file, ".part ", pid_file,
                                            "; while :; do sleep 0.01; done"));
  std::atomic<bool> this_one{false};
  std::thread canceller([&] {
    while (::access(pid_file.c_str(), F_OK) != 0) std::this_thread::yield();
    this_one = true;
  });
  std::atomic<int64_t> bytes{0};
  const auto weights = makers.LoadWeights({.kind = Request::Kind::kWeights}, &bytes, &this_one);
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(weights.status())) << weights.status();
  const std::string pid = testing::ReadFile(pid_file);
  EXPECT_NE(0, ::access(absl::StrCat("/proc/", pid.substr(0, pid.find('\n'))).c_str(), F_OK)) << "it was reaped";
}

TEST_F(ClientTest, AMissingBinaryIsAStatus) {
  const Makers makers("/no/such/binary", &cancelled_);
  EXPECT_TRUE(absl::IsNotFound(makers.Probe().status())) << makers.Probe().status();
}

}  // namespace
}  // namespace shoal::maker
