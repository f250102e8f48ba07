// Tested by: tests/maker/maker_test.cc
#include "worker/maker/process.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/device/open.h"
#include "worker/maker/make_weights.h"
#include "worker/maker/messages.h"

namespace shoal::maker {
namespace {

constexpr int kForsakenExit = 3;

// Ends this process when the other end of the socket is gone: its agent has died, or wants nothing any more. Also while
// the driver hangs.
class HangUpWatch {
 public:
  HangUpWatch() : quit_(::eventfd(0, EFD_CLOEXEC)), thread_([this] { Watch(); }) {}
  ~HangUpWatch() {
    ::eventfd_write(quit_, 1);
    thread_.join();
    ::close(quit_);
  }

 private:
  void Watch() const {
    pollfd fds[2] = {{kSocketFd, POLLRDHUP, 0}, {quit_, POLLIN, 0}};
    while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    if (fds[1].revents == 0) ::_exit(kForsakenExit);
  }

  const int quit_;
  std::thread thread_;
};

absl::StatusOr<Answer> Probe() {
  SHOAL_ASSIGN_OR_RETURN(const ops::CudaPlugin* plugin, device::CudaPlugin());
  Answer answer;
  answer.text.resize(sizeof(ops::CudaProbe));
  plugin->probe(reinterpret_cast<ops::CudaProbe*>(answer.text.data()));
  return answer;
}

// What stays free beside a context, and working memory of so many bytes.
absl::StatusOr<Answer> Measure(const Request& request) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ops::Accelerator> accelerator,
                         device::OpenAccelerator(request.device, request.numerics));
  void* working = nullptr;
  if (request.bytes > 0) {
    SHOAL_ASSIGN_OR_RETURN(working, accelerator->Allocate(static_cast<size_t>(request.bytes)));
  }
  absl::StatusOr<ops::Accelerator::MemoryInfo> memory = accelerator->Memory();
  if (working != nullptr) accelerator->Free(working);
  if (!memory.ok()) return memory.status();
  Answer answer;
  answer.bytes = static_cast<int64_t>(memory->free);
  answer.total = static_cast<int64_t>(memory->total);
  return answer;
}

// Zeros: a slot that nobody has written yet is read under a weight of 0, which would not make a NaN harmless.
absl::StatusOr<Answer> MakeKvCache(const Request& request) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ops::Accelerator> accelerator, device::OpenAccelerator(request.device));
  SHOAL_ASSIGN_OR_RETURN(const ops::Accelerator::SharedHandle handle,
                         accelerator->CreateShared(static_cast<size_t>(request.bytes)));
  Answer answer;
  answer.fd = handle.fd;
  answer.bytes = static_cast<int64_t>(handle.bytes);
  SHOAL_ASSIGN_OR_RETURN(void* const memory, accelerator->MapShared(handle.fd, handle.bytes));
  SHOAL_RETURN_IF_ERROR(accelerator->Fill(memory, 0, handle.bytes));
  SHOAL_RETURN_IF_ERROR(accelerator->Synchronise());
  accelerator->UnmapShared(memory, handle.bytes);
  return answer;
}

absl::StatusOr<Answer> LoadWeights(const Request& request) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ops::Accelerator> accelerator,
                         device::OpenAccelerator(request.device, request.numerics));
  return MakeWeights(request, *accelerator, [](int64_t bytes_read) {
    Answer progress;
    progress.kind = Answer::Kind::kProgress;
    progress.bytes_read = bytes_read;
    return Send(kSocketFd, Encode(progress), -1);
  });
}

absl::StatusOr<Answer> Do(const Request& request) {
  switch (request.kind) {
    case Request::Kind::kProbe:
      return Probe();
    case Request::Kind::kMeasure:
      return Measure(request);
    case Request::Kind::kKvCache:
      return MakeKvCache(request);
    case Request::Kind::kWeights:
      return LoadWeights(request);
  }
  return absl::InternalError("a request of no kind");
}

absl::Status ServeOne() {
  int none = -1;
  SHOAL_ASSIGN_OR_RETURN(const std::string packet, Receive(kSocketFd, &none));
  SHOAL_ASSIGN_OR_RETURN(const Request request, DecodeRequest(packet));
  const HangUpWatch watch;
  absl::StatusOr<Answer> answer = Do(request);
  if (answer.ok()) return Send(kSocketFd, Encode(*answer), answer->fd);
  Answer failed;
  failed.kind = Answer::Kind::kFailed;
  failed.code = static_cast<int32_t>(answer.status().code());
  failed.text = std::string(answer.status().message());
  return Send(kSocketFd, Encode(failed), -1);
}

}  // namespace

absl::Status RunMakerProcess() {
  std::signal(SIGPIPE, SIG_IGN);  // the agent reads our stderr; its death is noticed otherwise
  absl::Status status = ServeOne();
  if (!status.ok()) std::fprintf(stderr, "maker: %s\n", std::string(status.message()).c_str());
  return status;
}

}  // namespace shoal::maker
