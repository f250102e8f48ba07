// Descriptors between processes that are not related; here the sender is a thread.
#include "worker/comm/descriptor_port.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

namespace shoal::comm {
namespace {

using ::testing::HasSubstr;

// A file of so many bytes, to know it again.
class File {
 public:
  explicit File(int bytes) : fd_(::memfd_create("file", MFD_CLOEXEC)) { EXPECT_EQ(::ftruncate(fd_, bytes), 0); }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

int64_t SizeAndClose(int fd) {
  struct stat info = {};
  EXPECT_EQ(::fstat(fd, &info), 0);
  EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  ::close(fd);
  return info.st_size;
}

TimeNs In(DurationNs time) { return RealClock().Now() + time; }
absl::Status Well() { return absl::OkStatus(); }

TEST(DescriptorHost, IsTheSameForAllOfThisHost) {
  const auto host = DescriptorHost();
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_EQ(*host, DescriptorHost().value());
  EXPECT_LE(host->size(), kMaxDescriptorHost);
  EXPECT_EQ(host->find_first_not_of("0123456789abcdef-"), std::string::npos) << *host;
}

TEST(DescriptorPort, TakesOneFromEachRank) {
  auto port = DescriptorPort::Open();
  ASSERT_TRUE(port.ok()) << port.status();
  const File first(1), third(3);
  // Before anybody waits for it, and while somebody does.
  ASSERT_TRUE(DescriptorPort::Send(port->address(), 2, third.fd()).ok());
  std::thread sender([&] { EXPECT_TRUE(DescriptorPort::Send(port->address(), 0, first.fd()).ok()); });
  const auto fds = port->Receive(3, 1, In(30 * kSecond), Well);
  sender.join();
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(SizeAndClose((*fds)[0]), 1);
  EXPECT_EQ((*fds)[1], -1);
  EXPECT_EQ(SizeAndClose((*fds)[2]), 3);
}

TEST(DescriptorPort, WhatNobodyWaitsForIsLeftAside) {
  auto port = DescriptorPort::Open();
  const File right(5), wrong(7);
  std::string guess = port->address();
  guess.back() = guess.back() == '0' ? '1' : '0';  // the name is to be seen by all, the secret is not
  ASSERT_TRUE(DescriptorPort::Send(guess, 0, wrong.fd()).ok());
  for (const int from : {-1, 1, 2, 1 << 30}) {
    ASSERT_TRUE(DescriptorPort::Send(port->address(), from, wrong.fd()).ok());
  }
  ASSERT_TRUE(DescriptorPort::Send(port->address(), 0, right.fd()).ok());
  ASSERT_TRUE(DescriptorPort::Send(port->address(), 0, wrong.fd()).ok());  // too late
  const auto fds = port->Receive(2, 1, In(30 * kSecond), Well);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(SizeAndClose((*fds)[0]), 5);
}

TEST(DescriptorPort, APortThatIsGoneIsTold) {
  std::string address;
  { address = DescriptorPort::Open()->address(); }
  const File file(1);
  EXPECT_EQ(DescriptorPort::Send(address, 0, file.fd()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(DescriptorPort::Send("short", 0, file.fd()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(DescriptorPort, StrangersDoNotPutOffTheEndOfAWait) {
  auto port = DescriptorPort::Open();
  const File file(1);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(DescriptorPort::Send(port->address(), 7, file.fd()).ok());
  ASSERT_TRUE(DescriptorPort::Send(port->address(), 0, file.fd()).ok());
  EXPECT_EQ(port->Receive(2, 1, In(0), Well).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(DescriptorPort, WaitsEnd) {
  auto port = DescriptorPort::Open();
  const File file(1);
  ASSERT_TRUE(DescriptorPort::Send(port->address(), 2, file.fd()).ok());
  const absl::Status late = port->Receive(4, 1, In(50 * kMillisecond), Well).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("tensor ranks 0, 3"));
  int looks = 0;
  const auto enough = [&] { return ++looks < 3 ? absl::OkStatus() : absl::AbortedError("enough"); };
  EXPECT_EQ(port->Receive(2, 1, In(30 * kSecond), enough).status().code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace shoal::comm
