// Another process with an accelerator: `accelerator_peer VERB BYTES`, descriptor 3 inherited.
//   turn-1-into-2   3 is shared memory of 1s: makes them 2s, and ends without unmapping
//   turn-1-into-2-and-fault  the same, then the device makes an illegal access, and every later call is to say so
//   make-1-and-die  makes shared memory of 1s, sends it through the socket 3, and dies of SIGKILL
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "tests/kernels/cuda/accelerator_factory.h"

namespace {

bool SendFd(int socket, int fd) {
  char byte = 'x';
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return ::sendmsg(socket, &message, 0) == 1;
}

int Turn(shoal::ops::Accelerator& by, size_t bytes) {
  const auto memory = by.MapShared(3, bytes);
  const auto host = by.AllocatePinned(bytes);
  if (!memory.ok() || !host.ok()) {
    std::fprintf(stderr, "%s\n", (memory.ok() ? host : memory).status().ToString().c_str());
    return 4;
  }
  if (!by.CopyOut(*host, *memory, bytes).ok() || !by.Synchronise().ok()) return 5;
  for (size_t i = 0; i < bytes; ++i) {
    if (static_cast<const char*>(*host)[i] != 1) return 6;
  }
  return by.Fill(*memory, 2, bytes).ok() && by.Synchronise().ok() ? 0 : 7;
}

int Fault(shoal::ops::Accelerator& by) {
  if (!by.ProvokeFault().ok()) return 11;
  if (by.Synchronise().code() != absl::StatusCode::kInternal) return 12;
  if (by.Mark().status().code() != absl::StatusCode::kInternal) return 13;
  return by.ProvokeFault().code() == absl::StatusCode::kInternal ? 0 : 14;
}

int Make(shoal::ops::Accelerator& by, size_t bytes) {
  const auto handle = by.CreateShared(bytes);
  if (!handle.ok() || handle->bytes != bytes) return 4;
  const auto memory = by.MapShared(handle->fd, bytes);
  if (!memory.ok() || !by.Fill(*memory, 1, bytes).ok() || !by.Synchronise().ok()) return 5;
  if (!SendFd(3, handle->fd)) return 6;
  std::raise(SIGKILL);
  return 7;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string_view verb = argv[1];
  const size_t bytes = std::strtoull(argv[2], nullptr, 10);
  const auto accelerator = shoal::cuda::MakeTestAccelerator();
  if (accelerator == nullptr) return 3;
  if (verb == "make-1-and-die") ::_exit(Make(*accelerator, bytes));
  const int turned = Turn(*accelerator, bytes);
  ::_exit(turned == 0 && verb == "turn-1-into-2-and-fault" ? Fault(*accelerator) : turned);
}
