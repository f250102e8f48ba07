// What only shared memory has: a segment that may be the wrong one, and ranks that are processes and die.
#include "worker/comm/shm.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace shoal::comm {
namespace {

constexpr GroupShape kShape = {.tp = 2, .pp = 1, .max_activation_bytes = 0, .max_samples = 1};

class Segment {
 public:
  explicit Segment(const GroupShape& shape) : bytes_(ShmSegmentBytes(shape)), fd_(memfd_create("shm_test", 0)) {
    EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes_)), 0);
    data_ = static_cast<std::byte*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
  }
  ~Segment() {
    munmap(data_, bytes_);
    close(fd_);
  }
  std::span<std::byte> memory() const { return {data_, bytes_}; }
  int fd() const { return fd_; }

 private:
  size_t bytes_;
  int fd_;
  std::byte* data_;
};

pid_t Spawn(int fd, int rank, int rounds) {
  std::string fd_text = std::to_string(fd), rank_text = std::to_string(rank), rounds_text = std::to_string(rounds);
  char* argv[] = {const_cast<char*>(SHM_PEER), fd_text.data(), rank_text.data(), rounds_text.data(), nullptr};
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, SHM_PEER, nullptr, nullptr, argv, environ), 0);
  return pid;
}

int Reap(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(ShmTest, RanksAsProcessesSumThroughOneSegment) {
  const Segment segment(kShape);
  const pid_t a = Spawn(segment.fd(), 0, 2000), b = Spawn(segment.fd(), 1, 2000);
  EXPECT_EQ(Reap(a), 0);
  EXPECT_EQ(Reap(b), 0);
}

TEST(ShmTest, AKilledPeerLeavesNothingLocked) {
  const Segment segment(kShape);
  AbortFlag abort{0};
  auto comm = MakeShmRank(kShape, 0, 5, segment.memory(), &abort);
  ASSERT_TRUE(comm.ok()) << comm.status();
  const pid_t peer = Spawn(segment.fd(), 1, 0);
  std::vector<float> data(1, 0.0f);
  ASSERT_TRUE(comm->tensor->AllReduceSum(data).ok());  // the peer is there
  kill(peer, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(Reap(peer)));

  std::thread aborter([&] { abort.store(1); });
  absl::Status status;
  for (int i = 1; status.ok() && i < 1000; ++i) {  // one that was under way may still complete
    data.assign(1 + i % 6000, static_cast<float>(i));
    status = comm->tensor->AllReduceSum(data);
  }
  aborter.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
}

TEST(ShmTest, RefusesAnotherGenerationShapeOrASecondComing) {
  const Segment segment(kShape);
  const AbortFlag abort{0};
  ASSERT_TRUE(MakeShmRank(kShape, 0, 5, segment.memory(), &abort).ok());
  EXPECT_EQ(MakeShmRank(kShape, 1, 4, segment.memory(), &abort).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MakeShmRank(kShape, 1, 6, segment.memory(), &abort).status().code(), absl::StatusCode::kFailedPrecondition);
  GroupShape other = kShape;
  other.mailbox_slots = 4;
  EXPECT_EQ(MakeShmRank(other, 1, 5, segment.memory(), &abort).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MakeShmRank(kShape, 0, 5, segment.memory(), &abort).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(MakeShmRank(kShape, 1, 5, segment.memory(), &abort).ok());
}

TEST(ShmTest, RefusesMemoryThatDoesNotFit) {
  const Segment segment(kShape);
  const AbortFlag abort{0};
  const auto short_by_one = segment.memory().first(segment.memory().size() - 1);
  EXPECT_EQ(MakeShmRank(kShape, 0, 5, short_by_one, &abort).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeShmRank(kShape, 2, 5, segment.memory(), &abort).status().code(), absl::StatusCode::kInvalidArgument);
  GroupShape odd = kShape;
  odd.mailbox_slots = 6;
  EXPECT_EQ(MakeShmRank(odd, 0, 5, segment.memory(), &abort).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ShmTest, RefusesActivationsLargerThanAgreed) {
  const GroupShape shape = {.tp = 1, .pp = 2, .max_activation_bytes = 100, .max_samples = 1};
  const Segment segment(shape);
  const AbortFlag abort{0};
  auto comm = MakeShmRank(shape, 0, 5, segment.memory(), &abort);
  ASSERT_TRUE(comm.ok());
  EXPECT_EQ(comm->next->Send(std::vector<std::byte>(101)).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(comm->next->Send(std::vector<std::byte>(100)).ok());
}

}  // namespace
}  // namespace shoal::comm
