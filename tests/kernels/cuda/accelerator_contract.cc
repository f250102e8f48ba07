#include "tests/kernels/cuda/accelerator_contract.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace shoal::cuda {

using ::testing::AllOf;
using ::testing::HasSubstr;

void AcceleratorContract::SetUp() {
  accelerator_ = GetParam().make();
  if (accelerator_ == nullptr) GTEST_SKIP() << "no device here";
}

Piece::Piece(ops::Accelerator& of, Kind kind, size_t bytes) : of_(of), kind_(kind), bytes_(bytes) {
  absl::StatusOr<void*> memory = kind == kDevice ? of.Allocate(bytes) : of.AllocatePinned(bytes);
  EXPECT_TRUE(memory.ok()) << memory.status();
  if (memory.ok()) data_ = static_cast<std::byte*>(*memory);
}

Piece::~Piece() { kind_ == kDevice ? of_.Free(data_) : of_.FreePinned(data_); }

void Piece::Set(uint8_t byte) { std::memset(data_, byte, bytes_); }

bool Piece::Is(uint8_t byte) const {
  return std::all_of(data_, data_ + bytes_, [=](std::byte b) { return b == std::byte{byte}; });
}

SharedFile::SharedFile(ops::Accelerator& of, size_t bytes) {
  const auto handle = of.CreateShared(bytes);
  EXPECT_TRUE(handle.ok()) << handle.status();
  if (handle.ok()) handle_ = *handle;
}

void SharedFile::Close() {
  if (handle_.fd >= 0) {
    EXPECT_EQ(::close(handle_.fd), 0) << "a descriptor is its creator's";
  }
  handle_.fd = -1;
}

namespace {

constexpr size_t kBytes = 100'001;

TEST_P(AcceleratorContract, HasATableAStreamAndAQueue) {
  EXPECT_FALSE(accelerator().table().name.empty());
  EXPECT_GT(accelerator().stream().threads(), 0);
  EXPECT_NE(accelerator().native_stream(), nullptr);
}

TEST_P(AcceleratorContract, MemoryIsAlignedAndNobodyElses) {
  std::vector<std::unique_ptr<Piece>> pieces;
  for (const size_t bytes : {1, 100, 256, 1000, 100'000}) {
    pieces.push_back(std::make_unique<Piece>(accelerator(), Piece::kDevice, bytes));
    const auto begin = reinterpret_cast<uintptr_t>(pieces.back()->data());
    EXPECT_EQ(begin % 256, 0u);
    for (const auto& other : pieces) {
      if (other == pieces.back()) continue;
      const auto its = reinterpret_cast<uintptr_t>(other->data());
      EXPECT_TRUE(begin + bytes <= its || its + other->size() <= begin);
    }
  }
}

TEST_P(AcceleratorContract, BytesComeBackAsTheyWent) {
  const Piece in(accelerator(), Piece::kPinned, kBytes), out(accelerator(), Piece::kPinned, kBytes);
  const Piece a(accelerator(), Piece::kDevice, kBytes), b(accelerator(), Piece::kDevice, kBytes);
  for (size_t i = 0; i < kBytes; ++i) in.data()[i] = static_cast<std::byte>(i * 7 + i / 256);
  ASSERT_TRUE(accelerator().CopyIn(a.data(), in.data(), kBytes).ok());
  ASSERT_TRUE(accelerator().Copy(b.data(), a.data(), kBytes).ok());
  ASSERT_TRUE(accelerator().CopyOut(out.data(), b.data(), kBytes).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_EQ(std::memcmp(in.data(), out.data(), kBytes), 0);
}

TEST_P(AcceleratorContract, WorkRunsInOrder) {
  Piece out(accelerator(), Piece::kPinned, 64 * 16);
  const Piece memory(accelerator(), Piece::kDevice, 16);
  for (uint8_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(accelerator().Fill(memory.data(), i, 16).ok());
    ASSERT_TRUE(accelerator().Fill(memory.data() + 4, static_cast<uint8_t>(i + 100), 3).ok());
    ASSERT_TRUE(accelerator().CopyOut(out.data() + 16 * i, memory.data(), 16).ok());
  }
  ASSERT_TRUE(accelerator().Synchronise().ok());
  for (size_t i = 0; i < out.size(); ++i) {
    const bool inner = i % 16 >= 4 && i % 16 < 7;
    EXPECT_EQ(out.data()[i], static_cast<std::byte>(i / 16 + (inner ? 100 : 0))) << i;
  }
}

TEST_P(AcceleratorContract, NothingIsCopiedWhereThereIsNothing) {
  EXPECT_TRUE(accelerator().CopyIn(nullptr, nullptr, 0).ok());
  EXPECT_TRUE(accelerator().CopyOut(nullptr, nullptr, 0).ok());
  EXPECT_TRUE(accelerator().Copy(nullptr, nullptr, 0).ok());
  EXPECT_TRUE(accelerator().Fill(nullptr, 1, 0).ok());
  EXPECT_TRUE(accelerator().Synchronise().ok());
}

TEST_P(AcceleratorContract, MarksCountFromOneAndAreReachedInOrder) {
  Piece out(accelerator(), Piece::kPinned, 5000);
  const Piece memory(accelerator(), Piece::kDevice, 5000);
  for (uint64_t expected = 1; expected <= 200; ++expected) {
    const auto byte = static_cast<uint8_t>(expected);
    out.Set(0);
    ASSERT_TRUE(accelerator().Fill(memory.data(), byte, 5000).ok());
    ASSERT_TRUE(accelerator().CopyOut(out.data(), memory.data(), 5000).ok());
    const auto mark = accelerator().Mark();
    ASSERT_TRUE(mark.ok()) << mark.status();
    ASSERT_EQ(*mark, expected);
    for (;;) {
      const auto reached = accelerator().Reached(*mark);
      ASSERT_TRUE(reached.ok()) << reached.status();
      if (*reached) break;
      std::this_thread::yield();
    }
    EXPECT_TRUE(out.Is(byte)) << "what was enqueued before a mark that is reached is done";
    EXPECT_TRUE(accelerator().Reached(*mark).value()) << "and stays so";
    EXPECT_TRUE(accelerator().Reached((*mark + 1) / 2).value()) << "those before as well";
  }
}

TEST_P(AcceleratorContract, ManyMarksMayBeOnTheirWay) {
  Piece out(accelerator(), Piece::kPinned, 3000);
  const Piece memory(accelerator(), Piece::kDevice, 3000);
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(accelerator().Fill(memory.data() + i, static_cast<uint8_t>(i % 251), 1).ok());
    ASSERT_TRUE(accelerator().CopyOut(out.data() + i, memory.data() + i, 1).ok());
    ASSERT_EQ(accelerator().Mark().value(), static_cast<uint64_t>(i) + 1);
  }
  for (int i = 0; i < 3000; i += 7) {
    while (!accelerator().Reached(static_cast<uint64_t>(i) + 1).value()) std::this_thread::yield();
    EXPECT_EQ(out.data()[i], static_cast<std::byte>(i % 251)) << i;
  }
  EXPECT_TRUE(accelerator().Synchronise().ok());
}

TEST_P(AcceleratorContract, SynchroniseReachesEveryMark) {
  Piece out(accelerator(), Piece::kPinned, kBytes);
  const Piece memory(accelerator(), Piece::kDevice, kBytes);
  ASSERT_TRUE(accelerator().Fill(memory.data(), 9, kBytes).ok());
  ASSERT_TRUE(accelerator().CopyOut(out.data(), memory.data(), kBytes).ok());
  const uint64_t mark = accelerator().Mark().value();
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(9));
  EXPECT_TRUE(accelerator().Reached(mark).value());
}

TEST_P(AcceleratorContract, TooMuchMemoryIsRefusedWithTheNumbersAndNothingBreaks) {
  const auto memory = accelerator().Memory();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_LE(memory->free, memory->total);
  const size_t asked = memory->total + 12'345;
  for (const absl::Status& refused :
       {accelerator().Allocate(asked).status(), accelerator().CreateShared(asked).status()}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(std::to_string(memory->total)));
  }
  EXPECT_THAT(std::string(accelerator().Allocate(asked).status().message()), HasSubstr(std::to_string(asked)));
  Piece out(accelerator(), Piece::kPinned, kBytes);
  const Piece small(accelerator(), Piece::kDevice, kBytes);
  ASSERT_TRUE(accelerator().Fill(small.data(), 3, kBytes).ok());
  ASSERT_TRUE(accelerator().CopyOut(out.data(), small.data(), kBytes).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(3));
}

TEST_P(AcceleratorContract, MemoryInUseIsNotFree) {
  constexpr size_t kLarge = size_t{64} << 20;
  const size_t before = accelerator().Memory().value().free;
  {
    const Piece piece(accelerator(), Piece::kDevice, kLarge);
    EXPECT_LE(accelerator().Memory().value().free, before - kLarge);
    SharedFile shared(accelerator(), kLarge);
    EXPECT_LE(accelerator().Memory().value().free, before - 2 * kLarge) << "shared memory is there once created";
    void* mapped = accelerator().MapShared(shared.fd(), shared.size()).value();
    EXPECT_GT(accelerator().Memory().value().free, before - 3 * kLarge) << "a mapping takes nothing more";
    shared.Close();
    EXPECT_LE(accelerator().Memory().value().free, before - 2 * kLarge) << "the mapping keeps it";
    accelerator().UnmapShared(mapped, shared.size());
  }
  EXPECT_GT(accelerator().Memory().value().free, before - kLarge);
}

TEST_P(AcceleratorContract, AnyThreadMayFree) {
  void* device = accelerator().Allocate(kBytes).value();
  void* pinned = accelerator().AllocatePinned(kBytes).value();
  std::thread([&] {
    accelerator().Free(device);
    accelerator().FreePinned(pinned);
    accelerator().Free(nullptr);
    accelerator().FreePinned(nullptr);
  }).join();
  EXPECT_TRUE(accelerator().Synchronise().ok());
}

TEST_P(AcceleratorContract, AcceleratorsLiveSideBySide) {
  std::vector<std::thread> threads;
  for (uint8_t t = 1; t <= 4; ++t) {
    threads.emplace_back([&, t] {
      const auto own = GetParam().make();
      Piece out(*own, Piece::kPinned, kBytes);
      const Piece memory(*own, Piece::kDevice, kBytes);
      for (int i = 0; i < 30; ++i) {
        out.Set(0);
        EXPECT_TRUE(own->Fill(memory.data(), t, kBytes).ok());
        EXPECT_TRUE(own->CopyOut(out.data(), memory.data(), kBytes).ok());
        EXPECT_EQ(own->Mark().value(), static_cast<uint64_t>(i) + 1);
        EXPECT_TRUE(own->Synchronise().ok());
        EXPECT_TRUE(out.Is(t));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- shared memory

TEST_P(AcceleratorContract, SharedMemoryIsRoundedUpAndItsDescriptorIsNotInherited) {
  const SharedFile shared(accelerator(), kBytes);
  EXPECT_GE(shared.size(), kBytes);
  EXPECT_EQ(SharedFile(accelerator(), shared.size()).size(), shared.size()) << "rounded once";
  EXPECT_NE(::fcntl(shared.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(accelerator().CreateShared(0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(AcceleratorContract, MappingsShowTheSameMemoryAndKeepIt) {
  SharedFile shared(accelerator(), kBytes);
  void* a = accelerator().MapShared(shared.fd(), shared.size()).value();
  auto* b = static_cast<std::byte*>(accelerator().MapShared(shared.fd(), shared.size()).value());
  EXPECT_NE(a, b);
  ASSERT_TRUE(accelerator().Fill(a, 5, shared.size()).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  accelerator().UnmapShared(a, shared.size());
  shared.Close();
  Piece out(accelerator(), Piece::kPinned, kBytes);
  ASSERT_TRUE(accelerator().CopyOut(out.data(), b + shared.size() - kBytes, kBytes).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(5));
  accelerator().UnmapShared(b, shared.size());
}

TEST_P(AcceleratorContract, WhatIsNoSharedMemoryOfThisSizeIsRefused) {
  const SharedFile shared(accelerator(), 3 * kBytes);
  const size_t granule = SharedFile(accelerator(), 1).size();
  const SharedFile larger(accelerator(), 2 * granule);
  const int other = ::memfd_create("other", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(other, static_cast<off_t>(shared.size())), 0);
  const auto expect_refused = [&](int fd, size_t bytes, const char* what) {
    const absl::Status refused = accelerator().MapShared(fd, bytes).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << what << ": " << refused;
  };
  expect_refused(shared.fd(), shared.size() + granule, "larger");
  expect_refused(shared.fd(), shared.size() - 1, "no multiple of the granularity");
  expect_refused(shared.fd(), 0, "nothing");
  expect_refused(other, shared.size(), "a file");
  expect_refused(-1, shared.size(), "no descriptor");
  expect_refused(larger.fd(), granule, "smaller");
  const auto memory = accelerator().MapShared(shared.fd(), shared.size());
  ASSERT_TRUE(memory.ok()) << "it still can be mapped: " << memory.status();
  accelerator().UnmapShared(*memory, shared.size());
  ::close(other);
}

TEST_P(AcceleratorContract, TellsWhichDeviceItIs) {
  const auto id = accelerator().Id();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, GetParam().make()->Id().value());
}

// Its own memory is a peer's, too: several ranks may have one device.
TEST_P(AcceleratorContract, MemoryOfAPeerIsReachedWhereItLies) {
  const auto other = GetParam().make();
  SharedFile shared(*other, kBytes);
  void* theirs = other->MapShared(shared.fd(), shared.size()).value();
  const auto ours = accelerator().MapPeer(shared.fd(), shared.size(), other->Id().value());
  ASSERT_TRUE(ours.ok()) << ours.status();
  shared.Close();
  ASSERT_TRUE(accelerator().Fill(*ours, 7, shared.size()).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  const Piece out(*other, Piece::kPinned, kBytes);
  ASSERT_TRUE(other->CopyOut(out.data(), theirs, kBytes).ok());
  ASSERT_TRUE(other->Synchronise().ok());
  EXPECT_TRUE(out.Is(7));
  accelerator().UnmapShared(*ours, shared.size());
  other->UnmapShared(theirs, shared.size());
}

TEST_P(AcceleratorContract, MemoryThatIsNotAPeersIsRefused) {
  const SharedFile shared(accelerator(), kBytes);
  ops::Accelerator::DeviceId nobody;
  nobody.fill(0xab);
  EXPECT_EQ(accelerator().MapPeer(shared.fd(), shared.size(), nobody).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const auto own = accelerator().Id().value();
  EXPECT_EQ(accelerator().MapPeer(-1, shared.size(), own).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(accelerator().MapPeer(shared.fd(), 2 * shared.size(), own).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(accelerator().Synchronise().ok()) << "nothing has broken";
}

int Wait(pid_t pid) {
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return status;
}

// Runs the peer, whose descriptor 3 is `fd`.
pid_t Spawn(const std::string& peer, int fd, const char* verb, size_t bytes) {
  std::string path = peer, word = verb, number = std::to_string(bytes);
  char* argv[] = {path.data(), word.data(), number.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd, 3);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, path.c_str(), &actions, nullptr, argv, environ), 0) << path;
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

int ReceiveFd(int socket) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  EXPECT_EQ(::recvmsg(socket, &message, MSG_CMSG_CLOEXEC), 1);
  int fd = -1;
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

// The bytes of shared memory, by an accelerator of its own.
void ExpectShared(ops::Accelerator& by, int fd, size_t bytes, uint8_t byte) {
  const auto memory = by.MapShared(fd, bytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const Piece out(by, Piece::kPinned, bytes);
  ASSERT_TRUE(by.CopyOut(out.data(), *memory, bytes).ok());
  ASSERT_TRUE(by.Synchronise().ok());
  EXPECT_TRUE(out.Is(byte));
  by.UnmapShared(*memory, bytes);
}

TEST_P(AcceleratorContract, SharedMemoryOutlivesItsAcceleratorAndIsAnotherProcesssToo) {
  const SharedFile shared(accelerator(), kBytes);
  void* memory = accelerator().MapShared(shared.fd(), shared.size()).value();
  ASSERT_TRUE(accelerator().Fill(memory, 1, shared.size()).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  accelerator().UnmapShared(memory, shared.size());
  accelerator_.reset();
  EXPECT_EQ(Wait(Spawn(GetParam().peer, shared.fd(), "turn-1-into-2", shared.size())), 0);
  ExpectShared(*GetParam().make(), shared.fd(), shared.size(), 2);
}

TEST_P(AcceleratorContract, SharedMemoryOutlivesTheProcessThatMadeIt) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const size_t bytes = SharedFile(accelerator(), kBytes).size();
  const pid_t peer = Spawn(GetParam().peer, sockets[1], "make-1-and-die", bytes);
  ::close(sockets[1]);
  const int fd = ReceiveFd(sockets[0]);
  const int status = Wait(peer);
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  ExpectShared(accelerator(), fd, bytes, 1);
  ::close(fd);
  ::close(sockets[0]);
}

// By another process: this one could not use the device any more.
TEST_P(AcceleratorContract, SharedMemoryOutlivesAFaultOfTheDevice) {
  const SharedFile shared(accelerator(), kBytes);
  void* memory = accelerator().MapShared(shared.fd(), shared.size()).value();
  ASSERT_TRUE(accelerator().Fill(memory, 1, shared.size()).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_EQ(Wait(Spawn(GetParam().peer, shared.fd(), "turn-1-into-2-and-fault", shared.size())), 0);
  EXPECT_TRUE(accelerator().Synchronise().ok()) << "the fault is nobody else's";
  accelerator().UnmapShared(memory, shared.size());
  ExpectShared(accelerator(), shared.fd(), shared.size(), 2);
}

// ---- graphs

TEST_P(AcceleratorContract, AGraphRunsWhenItIsLaunchedOnWhatIsThereThen) {
  Piece in(accelerator(), Piece::kPinned, kBytes), out(accelerator(), Piece::kPinned, kBytes);
  const Piece a(accelerator(), Piece::kDevice, kBytes), b(accelerator(), Piece::kDevice, kBytes);
  in.Set(1);
  out.Set(0);
  ASSERT_TRUE(accelerator().Fill(b.data(), 100, kBytes).ok());
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  EXPECT_TRUE(accelerator().CopyIn(a.data(), in.data(), kBytes).ok());
  EXPECT_TRUE(accelerator().Copy(b.data(), a.data(), kBytes).ok());
  EXPECT_TRUE(accelerator().Fill(a.data(), 50, kBytes).ok());
  EXPECT_TRUE(accelerator().CopyOut(out.data(), b.data(), kBytes).ok());
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(0)) << "recording ran nothing";
  for (uint8_t i = 1; i < 5; ++i) {
    in.Set(i);
    ASSERT_TRUE(accelerator().Launch(**graph).ok());
    ASSERT_TRUE(accelerator().Synchronise().ok());
    EXPECT_TRUE(out.Is(i)) << int{i};
  }
}

// Rows of 64 elements of 2 bytes: row i is all bytes i. What is gathered comes out of the device's own row numbers.
struct Gathering {
  static constexpr int kRows = 10, kDim = 64;
  static constexpr size_t kRowBytes = 2 * kDim;
  explicit Gathering(ops::Accelerator& a)
      : of(a),
        x(a, Piece::kDevice, kRows * kRowBytes),
        y(a, Piece::kDevice, kRows * kRowBytes),
        rows(a, Piece::kDevice, kRows * sizeof(int32_t)),
        rows_in(a, Piece::kPinned, kRows * sizeof(int32_t)),
        out(a, Piece::kPinned, kRows * kRowBytes) {
    for (size_t i = 0; i < kRows; ++i)
      EXPECT_TRUE(a.Fill(x.data() + i * kRowBytes, static_cast<uint8_t>(i), kRowBytes).ok());
  }
  void Enqueue() {
    EXPECT_EQ(of.table().acts, DType::kBF16);
    EXPECT_TRUE(of.CopyIn(rows.data(), rows_in.data(), rows.size()).ok());
    const absl::Status gathered =
        of.table().gather_rows(of.stream(), {.x = ops::ConstActs(static_cast<const void*>(x.data())),
                                             .rows = reinterpret_cast<const int32_t*>(rows.data()),
                                             .y = ops::Acts(static_cast<void*>(y.data())),
                                             .count = kRows,
                                             .dim = kDim});
    EXPECT_TRUE(gathered.ok()) << gathered;
    EXPECT_TRUE(of.CopyOut(out.data(), y.data(), y.size()).ok());
  }
  // Row i of the result is to be row (first + i) % kRows.
  void Ask(int first) {
    for (int i = 0; i < kRows; ++i) reinterpret_cast<int32_t*>(rows_in.data())[i] = (first + i) % kRows;
  }
  void ExpectFrom(int first) const {
    for (size_t i = 0; i < out.size(); ++i) {
      const auto row = (static_cast<size_t>(first) + i / kRowBytes) % kRows;
      ASSERT_EQ(out.data()[i], static_cast<std::byte>(row)) << i;
    }
  }

  ops::Accelerator& of;
  const Piece x, y, rows, rows_in, out;
};

TEST_P(AcceleratorContract, OpsRunInOrderWithCopies) {
  Gathering gathering(accelerator());
  for (int first = 0; first < 5; ++first) {
    gathering.Ask(first);
    gathering.Enqueue();
    ASSERT_TRUE(accelerator().Synchronise().ok());
    gathering.ExpectFrom(first);
  }
}

TEST_P(AcceleratorContract, OpsOfAGraphReadWhatIsThereWhenItRuns) {
  Gathering gathering(accelerator());
  gathering.Ask(0);
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  gathering.Enqueue();
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (int first = 1; first < 5; ++first) {
    gathering.Ask(first);
    ASSERT_TRUE(accelerator().Launch(**graph).ok());
    ASSERT_TRUE(accelerator().Synchronise().ok());
    gathering.ExpectFrom(first);
  }
}

TEST_P(AcceleratorContract, AnOpThatIsRefusedLeavesTheCaptureAsItWas) {
  Gathering gathering(accelerator());
  gathering.Ask(3);
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  const absl::Status refused = accelerator().table().gather_rows(
      accelerator().stream(), {.x = nullptr, .rows = nullptr, .y = nullptr, .count = 1, .dim = 3});
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  gathering.Enqueue();
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  ASSERT_TRUE(accelerator().Launch(**graph).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  gathering.ExpectFrom(3);
}

TEST_P(AcceleratorContract, GraphsAndSingleWorkRunInOneOrder) {
  Piece out(accelerator(), Piece::kPinned, 40);
  const Piece memory(accelerator(), Piece::kDevice, 1);
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  EXPECT_TRUE(accelerator().Fill(memory.data(), 77, 1).ok());
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (int i = 0; i < 40; i += 2) {
    ASSERT_TRUE(accelerator().Launch(**graph).ok());
    ASSERT_TRUE(accelerator().CopyOut(out.data() + i, memory.data(), 1).ok());
    ASSERT_TRUE(accelerator().Fill(memory.data(), static_cast<uint8_t>(i), 1).ok());
    ASSERT_TRUE(accelerator().CopyOut(out.data() + i + 1, memory.data(), 1).ok());
  }
  ASSERT_TRUE(accelerator().Synchronise().ok());
  for (int i = 0; i < 40; ++i) EXPECT_EQ(out.data()[i], static_cast<std::byte>(i % 2 == 0 ? 77 : i - 1)) << i;
}

TEST_P(AcceleratorContract, WhatNoGraphCanHoldIsRefusedAndTheCaptureGoesOn) {
  Piece out(accelerator(), Piece::kPinned, kBytes);
  const Piece memory(accelerator(), Piece::kDevice, kBytes);
  void* freed = accelerator().Allocate(kBytes).value();
  const uint64_t mark = accelerator().Mark().value();
  EXPECT_EQ(accelerator().EndCapture().status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  EXPECT_TRUE(accelerator().Fill(memory.data(), 8, kBytes).ok());
  for (const absl::Status& refused :
       {accelerator().Allocate(1).status(), accelerator().AllocatePinned(1).status(),
        accelerator().CreateShared(1).status(), accelerator().MapShared(0, 1).status(), accelerator().Mark().status(),
        accelerator().Reached(mark).status(), accelerator().Synchronise(), accelerator().BeginCapture(),
        accelerator().Memory().status()}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  }
  accelerator().Free(freed);
  EXPECT_TRUE(accelerator().CopyOut(out.data(), memory.data(), kBytes).ok());
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  ASSERT_TRUE(accelerator().Launch(**graph).ok());
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(8));
}

// A group that breaks up forgets its graphs while the device still waits for other ranks.
TEST_P(AcceleratorContract, WhatIsUnderWayOfAGraphOutlivesIt) {
  Piece out(accelerator(), Piece::kPinned, kBytes);
  const Piece memory(accelerator(), Piece::kDevice, kBytes);
  out.Set(0);
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  for (uint8_t i = 1; i <= 100; ++i) EXPECT_TRUE(accelerator().Fill(memory.data(), i, kBytes).ok());
  EXPECT_TRUE(accelerator().CopyOut(out.data(), memory.data(), kBytes).ok());
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(accelerator().Launch(**graph).ok());
  graph->reset();
  ASSERT_TRUE(accelerator().Synchronise().ok());
  EXPECT_TRUE(out.Is(100));
}

TEST_P(AcceleratorContract, AnEmptyGraphMayBeLaunched) {
  ASSERT_TRUE(accelerator().BeginCapture().ok());
  auto graph = accelerator().EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_TRUE(accelerator().Launch(**graph).ok());
  EXPECT_TRUE(accelerator().Synchronise().ok());
}

}  // namespace
}  // namespace shoal::cuda
