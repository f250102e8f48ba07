#include "worker/comm/descriptor_port.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

constexpr size_t kNameDigits = 32;  // of an address; the others are the secret
constexpr size_t kSecretDigits = DescriptorPort::kAddressBytes - kNameDigits;
constexpr int kBacklog = 64;
constexpr int kLookMs = 10;        // between two looks at what may end a wait
constexpr int kPatienceMs = 1000;  // for the message of somebody who has connected: it was sent before

struct Packet {
  std::array<char, kSecretDigits> secret;
  int32_t from;
};

struct Fd {
  int fd = -1;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};

// An abstract name: it goes with the socket, and lives in the network's namespace.
socklen_t NameOf(std::string_view address, sockaddr_un* name) {
  *name = {};
  name->sun_family = AF_UNIX;
  const std::string text = absl::StrCat("shoal-", std::string(address.substr(0, kNameDigits)));
  std::memcpy(name->sun_path + 1, text.data(), text.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
}

std::string_view SecretOf(std::string_view address) { return address.substr(kNameDigits); }

bool OfThisUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

// The message of one who has connected; -1: it is none.
int Take(int socket, std::string_view secret, int32_t* from) {
  pollfd readable = {socket, POLLIN, 0};
  if (!OfThisUser(socket) || ::poll(&readable, 1, kPatienceMs) != 1) return -1;
  Packet packet = {};
  iovec data = {&packet, sizeof packet};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  Fd fd;
  const cmsghdr* header = size < 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    std::memcpy(&fd.fd, CMSG_DATA(header), sizeof fd.fd);
  }
  const bool sound = size == sizeof packet && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                     std::equal(secret.begin(), secret.end(), packet.secret.begin(), packet.secret.end());
  if (!sound) return -1;
  *from = packet.from;
  return std::exchange(fd.fd, -1);
}

// Descriptors by rank, closed unless they are released.
struct Arrived {
  explicit Arrived(int ranks) : fds(static_cast<size_t>(ranks), -1) {}
  ~Arrived() {
    for (const int fd : fds) {
      if (fd >= 0) ::close(fd);
    }
  }
  std::vector<int> Missing(int own) const {
    std::vector<int> missing;
    for (int r = 0; r < static_cast<int>(fds.size()); ++r) {
      if (r != own && fds[static_cast<size_t>(r)] < 0) missing.push_back(r);
    }
    return missing;
  }
  std::vector<int> fds;
};

}  // namespace

absl::StatusOr<std::string> DescriptorHost() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat network = {};
  if (boot.empty() || boot.size() > kMaxDescriptorHost - 20 || ::stat("/proc/self/ns/net", &network) != 0) {
    return absl::UnavailableError("the system does not tell which boot or network namespace this is");
  }
  return absl::StrCat(boot, "-", absl::Hex(network.st_ino));
}

absl::StatusOr<DescriptorPort> DescriptorPort::Open() {
  std::array<char, kAddressBytes / 2> random;
  if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    return absl::UnavailableError("the system gives no random numbers");
  }
  std::string address = absl::BytesToHexString(absl::string_view(random.data(), random.size()));
  const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return absl::ErrnoToStatus(errno, "socket");
  DescriptorPort port(socket, std::move(address));
  sockaddr_un name;
  const socklen_t size = NameOf(port.address_, &name);
  if (::bind(socket, reinterpret_cast<const sockaddr*>(&name), size) != 0 || ::listen(socket, kBacklog) != 0) {
    return absl::ErrnoToStatus(errno, "cannot listen on a local socket");
  }
  return port;
}

DescriptorPort::DescriptorPort(DescriptorPort&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)), address_(std::move(other.address_)) {}

DescriptorPort::~DescriptorPort() {
  if (socket_ >= 0) ::close(socket_);
}

absl::Status DescriptorPort::Send(std::string_view address, int from, int fd) {
  if (address.size() != kAddressBytes) return absl::InvalidArgumentError("not the address of a port");
  const Fd socket = {::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (socket.fd < 0) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_un name;
  const socklen_t size = NameOf(address, &name);
  if (::connect(socket.fd, reinterpret_cast<const sockaddr*>(&name), size) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot reach its local socket: ", std::strerror(errno)));
  }
  if (!OfThisUser(socket.fd)) return absl::UnavailableError("its local socket is another user's");
  Packet packet = {};
  const std::string_view secret = SecretOf(address);
  std::copy(secret.begin(), secret.end(), packet.secret.begin());
  packet.from = from;
  iovec data = {&packet, sizeof packet};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(socket.fd, &message, MSG_NOSIGNAL) == sizeof packet) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot send a descriptor: ", std::strerror(errno)));
}

absl::StatusOr<std::vector<int>> DescriptorPort::Receive(int ranks, int own, TimeNs deadline,
                                                         const std::function<absl::Status()>& check) {
  const RealClock clock;
  Arrived arrived(ranks);
  while (!arrived.Missing(own).empty()) {
    SHOAL_RETURN_IF_ERROR(check());
    pollfd waiting = {socket_, POLLIN, 0};
    if (::poll(&waiting, 1, kLookMs) == 1) {
      const Fd connected = {::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
      int32_t from = -1;
      Fd fd = {connected.fd < 0 ? -1 : Take(connected.fd, SecretOf(address_), &from)};
      const bool wanted = fd.fd >= 0 && from >= 0 && from < ranks && from != own;
      if (wanted && arrived.fds[static_cast<size_t>(from)] < 0) {
        arrived.fds[static_cast<size_t>(from)] = std::exchange(fd.fd, -1);
      }
    }
    const std::vector<int> missing = arrived.Missing(own);
    if (!missing.empty() && clock.Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("no descriptor came from tensor ranks ", absl::StrJoin(missing, ", ")));
    }
  }
  return std::exchange(arrived.fds, {});
}

}  // namespace shoal::comm
