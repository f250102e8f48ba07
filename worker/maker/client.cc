#include "worker/maker/client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/device/open.h"
#include "worker/maker/spawn.h"

namespace shoal::maker {
namespace {

// Starting the driver takes seconds where no other process holds it and there are many devices.
constexpr DurationNs kProbeDeadline = 60 * kSecond, kMakeDeadline = 120 * kSecond;
constexpr int kPollMs = 20;  // how late a cancellation is noticed
// Ending a context takes tenths of a second; a killed process that is not gone by then is inside the driver.
constexpr DurationNs kEndGrace = 10 * kSecond, kKillGrace = 2 * kSecond;
constexpr size_t kMaxLine = 2000;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// One maker from its start to its end.
class Process {
 public:
  static absl::StatusOr<std::unique_ptr<Process>> Start(const std::string& binary) {
    int ends[2], pipe[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
      return absl::ErrnoToStatus(errno, "socketpair");
    }
    Fd own(ends[0]), its(ends[1]);
    if (::pipe2(pipe, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
    Fd output(pipe[0]), its_output(pipe[1]);
    SHOAL_ASSIGN_OR_RETURN(const pid_t pid,
                           Spawn({.argv = {binary, "maker"}, .fds = {its.get()}, .output_fd = its_output.get()}));
    return std::unique_ptr<Process>(new Process(pid, std::move(own), std::move(output)));
  }
  ~Process() {
    socket_.Close();
    if (!ended_ && !WaitEnd(0)) Kill();
  }

  int socket() const { return socket_.get(); }

  // What the maker has to say: waits a moment for its next answer, or nothing when none came.
  absl::StatusOr<std::optional<Answer>> Next() {
    pollfd fds[2] = {{socket_.get(), POLLIN, 0}, {output_.get(), POLLIN, 0}};
    if (::poll(fds, 2, kPollMs) < 0) return std::optional<Answer>();
    if (fds[1].revents != 0) Relay();
    if (fds[0].revents == 0) return std::optional<Answer>();
    int fd = -1;
    const absl::StatusOr<std::string> packet = Receive(socket_.get(), &fd);
    Fd received(fd);  // closed unless it is handed on
    if (absl::IsUnavailable(packet.status())) return Died();
    if (!packet.ok()) return packet.status();
    SHOAL_ASSIGN_OR_RETURN(Answer answer, DecodeAnswer(*packet));
    answer.fd = received.Release();
    return std::optional<Answer>(std::move(answer));
  }

  // Its end after its last answer.
  void Finish() {
    if (!WaitEnd(kEndGrace)) Kill();
  }

 private:
  Process(pid_t pid, Fd socket, Fd output)
      : pid_(pid), pid_fd_(OpenPidFd(pid)), socket_(std::move(socket)), output_(std::move(output)) {}

  absl::Status Died() {
    if (!WaitEnd(kEndGrace)) Kill();
    while (Relay()) {
    }
    const std::string& last = line_.empty() ? last_line_ : line_;
    return absl::InternalError(absl::StrCat("the process that works on the device has ended without an answer: ",
                                            DescribeEnd(end_), last.empty() ? "" : ": ", last));
  }

  // Not longer than a moment for one that sits in the driver: it is the kernel's then.
  void Kill() {
    ::kill(pid_, SIGKILL);
    WaitEnd(kKillGrace);
  }

  // False: it still runs after so long. Reaps it.
  bool WaitEnd(DurationNs patience) {
    const RealClock clock;
    const TimeNs deadline = clock.Now() + patience;
    do {
      pollfd fds[2] = {{pid_fd_.get(), POLLIN, 0}, {output_.get(), POLLIN, 0}};
      ::poll(fds, 2, patience > 0 ? kPollMs : 0);
      if (fds[1].revents != 0) Relay();
      siginfo_t info = {};
      if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG) != 0 || info.si_pid == pid_) {
        end_ = info;
        ended_ = true;
      }
    } while (!ended_ && clock.Now() < deadline);
    return ended_;
  }

  // What it has written goes to our stderr. False: no more will come, or nothing is there.
  bool Relay() {
    pollfd ready = {output_.get(), POLLIN, 0};
    if (output_.get() < 0 || ::poll(&ready, 1, 0) <= 0) return false;
    char buffer[4096];
    const ssize_t n = ::read(output_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) return true;
    if (n <= 0) {
      output_.Close();
      return false;
    }
    if (::write(STDERR_FILENO, buffer, static_cast<size_t>(n)) < 0) return true;  // nobody reads ours
    for (const char* c = buffer; c < buffer + n; ++c) {
      if (*c != '\n') {
        if (line_.size() < kMaxLine) line_.push_back(*c);
      } else if (!line_.empty()) {
        last_line_ = std::exchange(line_, {});
      }
    }
    return true;
  }

  const pid_t pid_;
  Fd pid_fd_, socket_, output_;
  bool ended_ = false;
  siginfo_t end_ = {};
  std::string line_, last_line_;  // being received; the last whole one
};

absl::StatusOr<device::SharedMemory> Adopt(const Answer& answer, int device) {
  if (answer.fd < 0) return absl::DataLossError("a maker has sent no memory");
  return device::SharedMemory::Hold(answer.fd, static_cast<size_t>(answer.bytes), device);
}

}  // namespace

absl::StatusOr<Answer> Makers::Ask(const Call& call) const {
  const RealClock clock;
  const TimeNs deadline = clock.Now() + call.deadline;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Process> process, Process::Start(binary_));
  const absl::Status sent = Send(process->socket(), Encode(call.request), -1);
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;  // of one that has ended already, Next() knows how
  const auto is_set = [](const std::atomic<bool>* flag) { return flag != nullptr && flag->load(); };
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(std::optional<Answer> answer, process->Next());
    if (answer.has_value() && answer->kind == Answer::Kind::kProgress) {
      if (call.on_progress != nullptr) call.on_progress(*answer);
    } else if (answer.has_value()) {
      process->Finish();
      if (answer->kind == Answer::Kind::kDone) return *std::move(answer);
      return absl::Status(static_cast<absl::StatusCode>(answer->code), answer->text);
    }
    if (is_set(call.cancelled) || is_set(cancelled_)) return absl::CancelledError("cancelled");
    if (call.deadline > 0 && clock.Now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the CUDA driver has not answered within ", call.deadline / kSecond, " s"));
    }
  }
}

absl::StatusOr<std::unique_ptr<ops::CudaProbe>> Makers::Probe() const {
  SHOAL_ASSIGN_OR_RETURN(const Answer answer, Ask({.request = {}, .deadline = kProbeDeadline}));
  auto probe = std::make_unique<ops::CudaProbe>();
  if (answer.text.size() != sizeof *probe) return absl::DataLossError("a maker has sent a malformed probe");
  std::memcpy(probe.get(), answer.text.data(), sizeof *probe);
  return probe;
}

absl::StatusOr<Makers::Measured> Makers::Measure(int device, int64_t working, ops::Numerics numerics) const {
  const Request request = {.kind = Request::Kind::kMeasure, .device = device, .bytes = working, .numerics = numerics};
  SHOAL_ASSIGN_OR_RETURN(const Answer answer, Ask({.request = request, .deadline = kMakeDeadline}));
  return Measured{answer.bytes, answer.total};
}

absl::StatusOr<device::SharedMemory> Makers::KvCache(int device, int64_t bytes) const {
  const Request request = {.kind = Request::Kind::kKvCache, .device = device, .bytes = bytes};
  SHOAL_ASSIGN_OR_RETURN(const Answer answer, Ask({.request = request, .deadline = kMakeDeadline}));
  return Adopt(answer, device);
}

absl::StatusOr<Makers::Weights> Makers::LoadWeights(const Request& request, std::atomic<int64_t>* bytes_read,
                                                    const std::atomic<bool>* cancelled) const {
  const auto progress = [bytes_read](const Answer& a) { bytes_read->store(a.bytes_read, std::memory_order_relaxed); };
  SHOAL_ASSIGN_OR_RETURN(const Answer answer,
                         Ask({.request = request, .deadline = 0, .on_progress = progress, .cancelled = cancelled}));
  Weights weights;
  weights.bytes_read = answer.bytes_read;
  weights.load_time = answer.load_ns;
  SHOAL_ASSIGN_OR_RETURN(weights.memory, Adopt(answer, request.device));
  bytes_read->store(answer.bytes_read, std::memory_order_relaxed);
  return weights;
}

}  // namespace shoal::maker
