#include "worker/device/memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>

namespace shoal::device {
namespace {

constexpr size_t kBytes = 3 * 4096 + 100;

std::string UniqueName(const char* what) {
  return std::string("shoal-test-") + what + "-" + std::to_string(::getpid());
}

// Runs `body` in a child and returns its exit status (or 128 + the signal that killed it).
template <typename F>
int InChild(F body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would report and exit with 1
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(SharedMemory, IsZeroedWritableAndShown) {
  auto m = SharedMemory::Create("shoal-label", kBytes);
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->size(), kBytes);
  for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(m->data()[i], std::byte{0});
  std::memset(m->data(), 7, kBytes);
  std::ifstream maps("/proc/self/maps");
  const std::string text{std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>()};
  EXPECT_NE(text.find("memfd:shoal-label"), std::string::npos);
  EXPECT_NE(::fcntl(m->fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::ftruncate(m->fd(), 0), 0) << "nobody may pull pages from under another process";
}

TEST(SharedMemory, WritesAreSeenThroughAnotherMapping) {
  auto owner = SharedMemory::Create("shared", kBytes);
  ASSERT_TRUE(owner.ok());
  auto reader = SharedMemory::Attach(::dup(owner->fd()), false);
  auto writer = SharedMemory::Attach(::dup(owner->fd()), true);
  ASSERT_TRUE(reader.ok() && writer.ok());
  EXPECT_EQ(reader->size(), kBytes);
  EXPECT_NE(reader->data(), owner->data());
  writer->data()[kBytes - 1] = std::byte{42};
  EXPECT_EQ(owner->data()[kBytes - 1], std::byte{42});
  EXPECT_EQ(reader->data()[kBytes - 1], std::byte{42});
  EXPECT_EQ(InChild([&] {
              reader->data()[0] = std::byte{1};
              return 0;
            }),
            128 + SIGSEGV);
}

TEST(SharedMemory, OutlivesTheProcessThatWroteIt) {
  auto m = SharedMemory::Create("outlives", kBytes);
  ASSERT_TRUE(m.ok());
  ASSERT_EQ(InChild([&] {
              m->data()[5] = std::byte{9};
              return 0;
            }),
            0);
  EXPECT_EQ(m->data()[5], std::byte{9});
}

TEST(SharedMemory, SealedMemoryCannotBeWritten) {
  auto m = SharedMemory::Create("sealed", kBytes);
  ASSERT_TRUE(m.ok());
  std::memset(m->data(), 3, kBytes);
  const std::byte* before = m->data();
  ASSERT_TRUE(m->Seal().ok());
  EXPECT_EQ(m->data(), before) << "pointers stay valid";
  EXPECT_EQ(m->data()[kBytes - 1], std::byte{3});
  EXPECT_EQ(InChild([&] {
              m->data()[0] = std::byte{1};
              return 0;
            }),
            128 + SIGSEGV);
  const char byte = 1;
  EXPECT_LT(::pwrite(m->fd(), &byte, 1, 0), 0);
  EXPECT_NE(::ftruncate(m->fd(), kBytes + 1), 0);
  EXPECT_EQ(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd(), 0), MAP_FAILED);
  EXPECT_EQ(SharedMemory::Attach(::dup(m->fd()), true).status().code(), absl::StatusCode::kPermissionDenied);
  auto reader = SharedMemory::Attach(::dup(m->fd()), false);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(std::memcmp(reader->data(), m->data(), kBytes), 0);
}

TEST(SharedMemory, SealFailsWhileSomebodyCanStillWrite) {
  auto m = SharedMemory::Create("busy", kBytes);
  ASSERT_TRUE(m.ok());
  auto writer = SharedMemory::Attach(::dup(m->fd()), true);
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE(m->Seal().ok());
  m->data()[0] = std::byte{1};  // as before
  EXPECT_EQ(writer->data()[0], std::byte{1});
}

TEST(SharedMemory, MovesKeepOneOwner) {
  auto m = SharedMemory::Create("moved", kBytes);
  ASSERT_TRUE(m.ok());
  const int fd = m->fd();
  SharedMemory a = *std::move(m);
  SharedMemory b;
  b = std::move(a);
  EXPECT_EQ(b.fd(), fd);
  b.data()[0] = std::byte{1};
  b = SharedMemory();
  EXPECT_EQ(b.data(), nullptr);
}

TEST(SharedMemory, BadDescriptorsAreErrors) {
  EXPECT_FALSE(SharedMemory::Attach(-1, false).ok());
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_FALSE(SharedMemory::Attach(ends[0], false).ok());
  ::close(ends[1]);
  EXPECT_FALSE(SharedMemory::Attach(::memfd_create("empty", MFD_CLOEXEC), false).ok());
  EXPECT_FALSE(SharedMemory::Create("none", 0).ok());
}

TEST(SharedMemory, NamedSegments) {
  const std::string name = UniqueName("named");
  auto m = SharedMemory::CreateNamed(name, kBytes);
  ASSERT_TRUE(m.ok()) << m.status();
  struct stat st = {};
  ASSERT_EQ(::stat(("/dev/shm/" + name).c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_GE(st.st_blocks * 512, static_cast<int64_t>(kBytes)) << "committed, so that no page can fail later";
  EXPECT_EQ(SharedMemory::CreateNamed(name, kBytes).status().code(), absl::StatusCode::kAlreadyExists);
  auto other = SharedMemory::OpenNamed(name);
  ASSERT_TRUE(other.ok()) << other.status();
  other->data()[1] = std::byte{8};
  SharedMemory::Unlink(name);
  EXPECT_EQ(m->data()[1], std::byte{8}) << "what is mapped stays";
  EXPECT_EQ(SharedMemory::OpenNamed(name).status().code(), absl::StatusCode::kNotFound);
  for (const char* bad : {"", "../x", "a/b", ".hidden"}) EXPECT_FALSE(SharedMemory::CreateNamed(bad, 1).ok()) << bad;
}

TEST(SharedMemory, TooLargeForDevShmSaysSo) {
  const std::string name = UniqueName("large");
  const absl::Status s = SharedMemory::CreateNamed(name, size_t{1} << 45).status();  // 32 TiB
  EXPECT_FALSE(s.ok());
  EXPECT_EQ(SharedMemory::OpenNamed(name).status().code(), absl::StatusCode::kNotFound) << "nothing is left behind";
  if (s.code() == absl::StatusCode::kResourceExhausted) {
    EXPECT_NE(s.message().find("/dev/shm"), absl::string_view::npos) << s;
  }
}

}  // namespace
}  // namespace shoal::device
