// What only a transport between hosts has: addresses that may be nonsense, peers that do not come, strangers that do,
// and connections that break.
#include "worker/comm/gloo.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <string>
#include <thread>

#include "tests/comm/group.h"
#include "worker/comm/gloo_address.h"

namespace shoal::comm {
namespace {

constexpr GroupShape kPair = {.tp = 2, .pp = 1, .max_activation_bytes = 0, .max_samples = 1};

class GlooTest : public testing::Test {
 protected:
  GlooTest() { std::signal(SIGPIPE, SIG_IGN); }

  std::unique_ptr<GlooListener> Listen(int rank, const GroupShape& shape = kPair, uint64_t generation = 5) {
    auto listener = GlooListener::Listen(shape, rank, generation, "127.0.0.1", &abort_);
    EXPECT_TRUE(listener.ok()) << listener.status();
    return *std::move(listener);
  }
  static GlooAddress Read(const GlooListener& listener) { return DecodeAddress(listener.address(), 2).value(); }

  AbortFlag abort_{0};
};

// --- A rank that is a process ---

class Peer {
 public:
  Peer(int tp, int rank, int rounds) {
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::string words[] = {GLOO_PEER, std::to_string(tp), std::to_string(rank), std::to_string(rounds)};
    char* argv[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, GLOO_PEER, &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    in_ = in[1];
    out_ = out[0];
    for (char c = 0; read(out_, &c, 1) == 1 && c != '\n';) address_ += c;
  }
  ~Peer() {
    if (pid_ > 0) Kill(), Reap();
    close(in_);
    close(out_);
  }
  const std::string& address() const { return address_; }
  void Tell(const std::vector<std::string>& addresses) const {
    for (const std::string& a : addresses) {
      EXPECT_EQ(write(in_, (a + "\n").data(), a.size() + 1), static_cast<ssize_t>(a.size() + 1));
    }
  }
  void Kill() const { kill(pid_, SIGKILL); }
  int Reap() {
    int status = 0;
    EXPECT_EQ(waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
    return status;
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1;
  std::string address_;
};

TEST_F(GlooTest, RanksAsProcessesSum) {
  for (const int tp : {2, 3}) {
    std::deque<Peer> peers;
    std::vector<std::string> addresses;
    for (int r = 0; r < tp; ++r) addresses.push_back(peers.emplace_back(tp, r, 500).address());
    for (const Peer& peer : peers) peer.Tell(addresses);
    for (Peer& peer : peers) EXPECT_EQ(peer.Reap(), 0);
  }
}

TEST_F(GlooTest, AKilledPeerEndsAWait) {
  const auto listener = Listen(0);
  Peer peer(2, 1, 0);
  const std::vector<std::string> addresses = {listener->address(), peer.address()};
  peer.Tell(addresses);
  auto comm = listener->Connect(addresses, 30 * kSecond);
  ASSERT_TRUE(comm.ok()) << comm.status();
  std::vector<float> data(1, 0.0f);
  ASSERT_TRUE(comm->tensor->AllReduceSum(data).ok());
  // It waits for this rank's part of the next sum; then this rank waits for its part of one that it never comes to.
  peer.Kill();
  EXPECT_TRUE(WIFSIGNALED(peer.Reap()));
  absl::Status status;
  for (int i = 1; status.ok() && i < 1000; ++i) {  // what it had sent already may still come
    data.assign(1 + i % 6000, static_cast<float>(i));
    status = comm->tensor->AllReduceSum(data);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(GlooTest, ARankThatLeavesEndsWaitsForItAndNoOthers) {
  const GroupShape shape = {.tp = 2, .pp = 2, .max_activation_bytes = 1 << 20, .max_samples = 1};
  std::vector<AbortFlag> flags(4);
  std::vector<const AbortFlag*> abort;
  for (const AbortFlag& flag : flags) abort.push_back(&flag);
  std::vector<RankComm> ranks = ConnectGloo(shape, abort);
  ranks[1] = {};
  std::vector<std::byte> bytes(10);
  const absl::Status ended = ranks[3].previous->Receive(bytes);
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable) << ended;
  EXPECT_EQ(ended.message().find("lost rank 1 while waiting for activations: "), 0u) << ended;
  EXPECT_EQ(ended.message().find("pair.cc"), absl::string_view::npos) << ended;
  // Ranks 2 and 3 are both there, and what they do together is done.
  const auto sum = [&](int r) {
    std::vector<float> data(10);
    return ranks[r].tensor->AllReduceSum(data);
  };
  auto other = std::async(std::launch::async, sum, 2);
  EXPECT_TRUE(sum(3).ok());
  EXPECT_TRUE(other.get().ok());
}

TEST_F(GlooTest, WhatARankHadSentBeforeItLeftIsTaken) {
  const GroupShape shape = {.tp = 1, .pp = 2, .max_activation_bytes = 64, .max_samples = 1};
  AbortFlag flags[2] = {};
  const AbortFlag* abort[] = {&flags[0], &flags[1]};
  std::vector<RankComm> ranks = ConnectGloo(shape, abort);
  std::vector<std::byte> sent(64, std::byte{7}), got(64);
  ASSERT_TRUE(ranks[0].next->Send(sent).ok());
  ranks[0] = {};
  // Until the connection is known to have ended here.
  ASSERT_TRUE(Eventually([&] {
    return absl::IsUnavailable(ranks[1].mailbox_out->Post(1, {})) ? absl::OkStatus() : absl::UnknownError("not yet");
  }));
  EXPECT_TRUE(ranks[1].previous->Receive(got).ok());
  EXPECT_EQ(got, sent);
  EXPECT_EQ(ranks[1].previous->Receive(got).code(), absl::StatusCode::kUnavailable);
}

// --- Addresses ---

TEST_F(GlooTest, AddressesSurviveTheTrip) {
  const GlooAddress a = {
      .generation = 9, .shape = UINT64_MAX, .rank = 1, .nonce = 3, .host = "::1", .ports = {{0, 65535}, {3, 1}}};
  const auto back = DecodeAddress(EncodeAddress(a), 4);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, a);
}

TEST_F(GlooTest, NonsenseIsNoAddress) {
  const std::string good = "gloo1 5 6 1 7 127.0.0.1 0:80";
  EXPECT_TRUE(DecodeAddress(good, 2).ok());
  for (const std::string& bad :
       {std::string(), std::string("\0\xff\n", 3), std::string("gloo1"), std::string("gloo2 5 6 1 7 127.0.0.1 0:80"),
        std::string("gloo1 5 6 2 7 127.0.0.1 0:80"), std::string("gloo1 5 6 -1 7 127.0.0.1 0:80"),
        std::string("gloo1 x 6 1 7 127.0.0.1 0:80"), std::string("gloo1 5 6 1 7 localhost 0:80"),
        std::string("gloo1 5 6 1 7 127.0.0.1 0:0"), std::string("gloo1 5 6 1 7 127.0.0.1 0:65536"),
        std::string("gloo1 5 6 1 7 127.0.0.1 2:80"), std::string("gloo1 5 6 1 7 127.0.0.1 0:80 0:81"),
        std::string("gloo1 5 6 1 7 127.0.0.1 0"), good + " ", good + std::string(kMaxAddressBytes, ' ')}) {
    EXPECT_EQ(DecodeAddress(bad, 2).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(GlooTest, ConnectRefusesAddressesThatAreNotOfItsGroup) {
  const auto code = [&](const std::function<void(std::vector<std::string>&)>& spoil) {
    const auto zero = Listen(0), one = Listen(1);
    std::vector<std::string> addresses = {zero->address(), one->address()};
    spoil(addresses);
    return zero->Connect(addresses, 30 * kSecond).status().code();
  };
  const auto other = [&](const std::function<void(GlooAddress&)>& change) {
    return code([&](auto& addresses) {
      GlooAddress a = DecodeAddress(addresses[1], 2).value();
      change(a);
      addresses[1] = EncodeAddress(a);
    });
  };
  EXPECT_EQ(code([](auto& a) { a.pop_back(); }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& a) { a[1] = "garbage"; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& a) { a[1] = a[0]; }), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other([](auto& a) { ++a.generation; }), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other([](auto& a) { ++a.shape; }), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other([](auto& a) { a.ports.clear(); }), absl::StatusCode::kInvalidArgument);
}

TEST_F(GlooTest, ListenRefusesWhatIsNotOfThisMachine) {
  EXPECT_EQ(GlooListener::Listen(kPair, 0, 5, "no.such.host.invalid", &abort_).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(GlooListener::Listen(kPair, 0, 5, "192.0.2.1", &abort_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GlooListener::Listen(kPair, 2, 5, "127.0.0.1", &abort_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// --- Who connects ---

// An address that sorts behind those of this machine's ranks, so that they wait to be connected to.
std::string Elsewhere(const GlooListener& self) {
  GlooAddress a = DecodeAddress(self.address(), 2).value();
  a.rank = 1;
  a.host = "127.0.0.2";
  a.ports = {{0, 1}};
  return EncodeAddress(a);
}

TEST_F(GlooTest, APeerThatDoesNotComeIsWaitedForUntilTheDeadlineOrAnAbort) {
  for (const bool aborted : {false, true}) {
    const auto listener = Listen(0);
    std::thread aborter([&] { abort_ = aborted; });
    const auto comm = listener->Connect(std::vector<std::string>{listener->address(), Elsewhere(*listener)},
                                        aborted ? 3600 * kSecond : 20 * kMillisecond);
    aborter.join();
    EXPECT_EQ(comm.status().code(), aborted ? absl::StatusCode::kAborted : absl::StatusCode::kDeadlineExceeded)
        << comm.status();
  }
}

TEST_F(GlooTest, AnAddressWhereNobodyListensIsRefused) {
  const auto listener = Listen(1);
  GlooAddress gone = Read(*listener);
  gone.rank = 0;
  gone.ports = {{1, 1}};  // below any port that is given out
  const auto comm =
      listener->Connect(std::vector<std::string>{EncodeAddress(gone), listener->address()}, 3600 * kSecond);
  EXPECT_EQ(comm.status().code(), absl::StatusCode::kUnavailable) << comm.status();
}

// Somebody who knows Gloo's frames and connects where a rank is expected.
class Stranger {
 public:
  struct Frame {
    uint64_t bytes, opcode, slot, offset, length, remote_offset;
  };
  static constexpr uint64_t kUnboundData = 1, kReadyToReceive = 3, kHelloSlot = 1;

  explicit Stranger(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  ~Stranger() { Leave(); }
  void Leave() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  // Until the rank is ready for a greeting.
  void AwaitReady() const {
    Frame frame = {};
    while (frame.opcode != kReadyToReceive || frame.slot != kHelloSlot) {
      ASSERT_EQ(recv(fd_, &frame, sizeof frame, MSG_WAITALL), static_cast<ssize_t>(sizeof frame));
      if (frame.opcode == kUnboundData) {
        std::string skipped(frame.length, 0);
        ASSERT_EQ(recv(fd_, skipped.data(), skipped.size(), MSG_WAITALL), static_cast<ssize_t>(frame.length));
      }
    }
  }
  // A frame that says `length` bytes follow, and the data.
  void Say(uint64_t slot, uint64_t length, const std::string& data) const {
    const Frame frame = {sizeof(Frame) + length, kUnboundData, slot, 0, length, 0};
    ASSERT_EQ(send(fd_, &frame, sizeof frame, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof frame));
    ASSERT_EQ(send(fd_, data.data(), data.size(), MSG_NOSIGNAL), static_cast<ssize_t>(data.size()));
  }

 private:
  int fd_;
};

TEST_F(GlooTest, AStrangerIsNotTakenForAPeer) {
  enum What { kLeaves, kSaysHalf, kSaysOther };
  for (const What what : {kLeaves, kSaysHalf, kSaysOther}) {
    SCOPED_TRACE(what);
    const auto listener = Listen(0);
    auto connecting = std::async(std::launch::async, [&] {
      return listener->Connect(std::vector<std::string>{listener->address(), Elsewhere(*listener)}, 3600 * kSecond)
          .status();
    });
    Stranger stranger(Read(*listener).ports.at(1));
    if (what != kLeaves) stranger.AwaitReady();
    if (what == kSaysHalf) stranger.Say(Stranger::kHelloSlot, 48, "half of it");
    if (what == kSaysOther) stranger.Say(Stranger::kHelloSlot, 48, std::string(48, 'x'));
    if (what != kSaysOther) stranger.Leave();
    const absl::Status status = connecting.get();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
}

// Gloo throws on its own thread for a frame that nobody expects; a rank process ends with the code for it.
TEST_F(GlooTest, AFrameThatGlooCannotBearEndsTheRankProcessAsALostPeer) {
  Peer peer(2, 0, 0);
  const auto self = DecodeAddress(peer.address(), 2);
  ASSERT_TRUE(self.ok()) << self.status();
  const Stranger stranger(self->ports.at(1));
  stranger.Say(999, 8, "whatever");
  const int status = peer.Reap();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 4) << status;
}

TEST_F(GlooTest, ConnectsOnce) {
  const GroupShape alone = {.tp = 1, .pp = 1, .max_activation_bytes = 0, .max_samples = 1};
  const auto listener = Listen(0, alone);
  const std::vector<std::string> addresses = {listener->address()};
  EXPECT_TRUE(listener->Connect(addresses, kSecond).ok());
  EXPECT_EQ(listener->Connect(addresses, kSecond).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shoal::comm
