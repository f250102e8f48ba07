// `shoal rank` as its agent starts it, but with something wrong, or with an agent that dies.
#include "worker/rank/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <new>

#include "absl/strings/str_cat.h"
#include "common/plan/ring.h"
#include "common/plan/wire_setup.h"
#include "tests/agent/fixture.h"
#include "worker/agent/supervisor.h"
#include "worker/device/memory.h"
#include "worker/rank/control_page.h"

namespace shoal::rank {
namespace {

// The memory of an agent with one rank.
class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    control_ = Make(sizeof(ControlPage));
    page_ = new (control_.data()) ControlPage;
    plans_ = Make(plan::RingBytes(1 << 16));
    results_ = Make(plan::RingBytes(1 << 16));
    weights_ = Make(1 << 16);
    kv_ = Make(1 << 16);
    channels_ = Make(1 << 16);
    auto ring = plan::RingWriter::Create({plans_.data(), plans_.size()});
    EXPECT_TRUE(ring.ok());
    ring_ = std::make_unique<plan::RingWriter>(*ring);
    reader_ = *ring_->AttachReader();
  }

  static device::SharedMemory Make(size_t bytes) {
    auto memory = device::SharedMemory::Create("test", bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return memory.ok() ? *std::move(memory) : device::SharedMemory();
  }

  agent::SpawnSpec Spec() {
    agent::SpawnSpec spec;
    spec.binary = std::getenv("SHOAL_BINARY");
    spec.reader = reader_;
    spec.fds = {control_.fd(), plans_.fd(), results_.fd(), weights_.fd(), kv_.fd(), channels_.fd()};
    return spec;
  }

  // How a rank ends that is started like this, and what it says.
  std::string CauseOf(const agent::SpawnSpec& spec) {
    Mutex mutex;
    std::string cause;
    auto process = agent::RankProcess::Start(spec, [&](pid_t, const std::string& c, bool) {
      MutexLock lock(mutex);
      cause = c;
    });
    EXPECT_TRUE(process.ok()) << process.status();
    if (!process.ok()) return {};
    EXPECT_TRUE((*process)->WaitGone(60 * kSecond));
    process->reset();
    MutexLock lock(mutex);
    return cause;
  }

  void Append(const plan::RankSetup& setup) {
    EXPECT_TRUE(ring_->Append(plan::RecordKind::kSetup, {}, plan::EncodeSetup(setup)).ok());
  }
  static plan::RankSetup Valid() {
    plan::RankSetup setup;
    setup.epoch = 1;
    setup.model.layers = 2;
    setup.model.hidden = 64;
    setup.model.heads = 2;
    setup.model.kv_heads = 1;
    setup.model.head_dim = 32;
    setup.model.ffn = 64;
    setup.model.vocab = 64;
    setup.model.max_position = 64;
    setup.model.rope.dim = 32;
    setup.model.attention_scale = 0.2f;
    setup.engine.device = "ref";
    setup.limits = {4, 16, 2, 16, 64, 64};
    return setup;
  }

  device::SharedMemory control_, plans_, results_, weights_, kv_, channels_;
  ControlPage* page_ = nullptr;
  std::unique_ptr<plan::RingWriter> ring_;
  int reader_ = 0;
};

bool Says(const std::string& cause, const std::string& what) { return cause.find(what) != std::string::npos; }

TEST_F(ProcessTest, WrongControlPageEndsItWithOneLine) {
  page_->magic = 1;
  const std::string cause = CauseOf(Spec());
  EXPECT_TRUE(Says(cause, "exited with 1: ")) << cause;
  EXPECT_TRUE(Says(cause, "control page")) << cause;
}

TEST_F(ProcessTest, RingWithoutItsReaderEndsIt) {
  agent::SpawnSpec spec = Spec();
  spec.reader = 5;
  const std::string cause = CauseOf(spec);
  EXPECT_TRUE(Says(cause, "reader 5")) << cause;
}

TEST_F(ProcessTest, UnknownDeviceEndsIt) {
  plan::RankSetup setup = Valid();
  setup.engine.device = "abacus";
  Append(setup);
  const std::string cause = CauseOf(Spec());
  EXPECT_TRUE(Says(cause, "abacus")) << cause;
}

TEST_F(ProcessTest, RegionThatHoldsNoWeightsEndsIt) {
  Append(Valid());
  const std::string cause = CauseOf(Spec());
  EXPECT_TRUE(Says(cause, "exited with 1: ")) << cause;
  EXPECT_TRUE(Says(cause, "weights")) << cause;
  EXPECT_NE(static_cast<uint32_t>(plan::RankState::kReady), page_->state.load());
}

TEST_F(ProcessTest, EndsWithItsParentEvenWhileItWaits) {
  // A middle process stands in for the agent: it starts a rank that waits for its setup, tells its number, and is
  // killed.
  int pipe[2];
  ASSERT_EQ(0, ::pipe2(pipe, O_CLOEXEC));
  const pid_t middle = ::fork();
  ASSERT_GE(middle, 0);
  if (middle == 0) {
    auto process = agent::RankProcess::Start(Spec(), [](pid_t, const std::string&, bool) {});
    const pid_t rank = process.ok() ? (*process)->pid() : -1;
    // Once it is past its start, so that the watch on the parent is what ends it.
    while (page_->state.load() != static_cast<uint32_t>(plan::RankState::kLoading)) ::usleep(1000);
    if (::write(pipe[1], &rank, sizeof rank) != sizeof rank) ::_exit(1);
    while (true) ::pause();
  }
  ::close(pipe[1]);
  pid_t rank = -1;
  ASSERT_EQ(static_cast<ssize_t>(sizeof rank), ::read(pipe[0], &rank, sizeof rank));
  ::close(pipe[0]);
  ASSERT_GT(rank, 0);
  const int rank_fd = static_cast<int>(::syscall(SYS_pidfd_open, rank, 0));
  ASSERT_GE(rank_fd, 0);
  ASSERT_EQ(0, ::kill(middle, SIGKILL));
  ASSERT_EQ(middle, ::waitpid(middle, nullptr, 0));
  pollfd gone = {rank_fd, POLLIN, 0};
  EXPECT_EQ(1, ::poll(&gone, 1, 60000));
  ::close(rank_fd);
}

}  // namespace
}  // namespace shoal::rank
