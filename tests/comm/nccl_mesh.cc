#include "tests/comm/nccl_mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

constexpr uint64_t kTaken = UINT64_MAX;  // in place of a length: a message was received
constexpr size_t kIdBytes = 16;          // of an id: as many as are random

// In the abstract namespace: it goes with the process.
sockaddr_un AddressOf(const std::string& name, socklen_t* bytes) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  SHOAL_CHECK(name.size() + 1 < sizeof address.sun_path);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  *bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

void AppendLength(std::string& to, uint64_t length) {
  to.append(reinterpret_cast<const char*>(&length), sizeof length);
}

}  // namespace

NcclMesh::NcclMesh(const NcclId& id, int size, int rank) : id_(id), size_(size), rank_(rank) {
  aborted_fd_ = ::eventfd(0, EFD_CLOEXEC);
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  socklen_t bytes = 0;
  const sockaddr_un address = comm::AddressOf(AddressOf(rank), &bytes);
  SHOAL_CHECK(aborted_fd_ >= 0 && ::bind(listener_, reinterpret_cast<const sockaddr*>(&address), bytes) == 0);
  SHOAL_CHECK(::listen(listener_, size) == 0);
  for (int r = 0; r < size; ++r) {
    if (r != rank) peers_[r];
  }
}

NcclMesh::~NcclMesh() {
  for (const auto& [rank, peer] : peers_) {
    if (peer.fd >= 0) ::close(peer.fd);
  }
  ::close(listener_);
  ::close(aborted_fd_);
}

std::string NcclMesh::AddressOf(int rank) const {
  const absl::string_view id(reinterpret_cast<const char*>(id_.data()), kIdBytes);
  return absl::StrCat("shoal-emulated-nccl-", absl::BytesToHexString(id), "-", rank);
}

bool NcclMesh::Connect() {
  bool all = true;
  for (auto& [rank, peer] : peers_) {
    if (peer.fd < 0 && rank < rank_) ConnectTo(rank);
    if (peer.fd < 0 && rank > rank_) AcceptOne();
    all = all && peer.fd >= 0;
  }
  return all;
}

// A rank that does not listen yet refuses.
void NcclMesh::ConnectTo(int rank) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t bytes = 0;
  const sockaddr_un address = comm::AddressOf(AddressOf(rank), &bytes);
  const bool connected = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), bytes) == 0;
  const int32_t own = rank_;
  if (!connected || ::send(fd, &own, sizeof own, MSG_NOSIGNAL) != sizeof own) {
    ::close(fd);
    return;
  }
  peers_[rank].fd = fd;
}

// Who has connected says at once who it is.
void NcclMesh::AcceptOne() {
  const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  int32_t rank = -1;
  const bool told = ::recv(fd, &rank, sizeof rank, MSG_WAITALL) == sizeof rank;
  const auto peer = peers_.find(rank);
  if (!told || peer == peers_.end() || peer->second.fd >= 0) {
    ::close(fd);
    return;
  }
  peer->second.fd = fd;
}

void NcclMesh::Abort() {
  aborted_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  SHOAL_CHECK(::write(aborted_fd_, &one, sizeof one) == sizeof one);
}

absl::Status NcclMesh::AllGather(const void* part, void* all, size_t bytes) {
  std::vector<NcclComm::Transfer> transfers;
  for (const auto& [rank, peer] : peers_) {
    transfers.push_back({.peer = rank, .send = part, .bytes = bytes});
    std::byte* const place = static_cast<std::byte*>(all) + static_cast<size_t>(rank) * bytes;
    transfers.push_back({.peer = rank, .receive = place, .bytes = bytes});
  }
  std::memmove(static_cast<std::byte*>(all) + static_cast<size_t>(rank_) * bytes, part, bytes);
  return Exchange(transfers);
}

absl::Status NcclMesh::Exchange(const std::vector<NcclComm::Transfer>& transfers) {
  std::deque<NcclComm::Transfer> receives;
  for (const NcclComm::Transfer& t : transfers) {
    if (t.send == nullptr) {
      receives.push_back(t);
      continue;
    }
    Peer& peer = peers_.at(t.peer);
    AppendLength(peer.out, t.bytes);
    peer.out.append(static_cast<const char*>(t.send), t.bytes);
    ++peer.sent;
  }
  while (!aborted_.load(std::memory_order_acquire)) {
    SHOAL_RETURN_IF_ERROR(TakeArrived(receives));
    if (receives.empty() && AllTaken()) return absl::OkStatus();
    WaitAndMove();
  }
  return absl::OkStatus();
}

absl::Status NcclMesh::TakeArrived(std::deque<NcclComm::Transfer>& receives) {
  for (auto it = receives.begin(); it != receives.end();) {
    Peer& peer = peers_.at(it->peer);
    if (peer.arrived.empty()) {
      ++it;
      continue;
    }
    const std::string& message = peer.arrived.front();
    if (message.size() != it->bytes) {
      return absl::InternalError(
          absl::StrCat("ranks have diverged: ", message.size(), " bytes were sent, ", it->bytes, " were expected"));
    }
    std::memcpy(it->receive, message.data(), message.size());
    peer.arrived.pop_front();
    AppendLength(peer.out, kTaken);
    it = receives.erase(it);
  }
  return absl::OkStatus();
}

bool NcclMesh::AllTaken() const {
  for (const auto& [rank, peer] : peers_) {
    if (!peer.out.empty() || peer.taken < peer.sent) return false;
  }
  return true;
}

void NcclMesh::WaitAndMove() {
  std::vector<pollfd> ready = {{aborted_fd_, POLLIN, 0}};
  std::vector<Peer*> peers;
  for (auto& [rank, peer] : peers_) {
    if (peer.fd < 0) continue;
    const int events = POLLIN | (peer.out.empty() ? 0 : POLLOUT);
    ready.push_back({peer.fd, static_cast<int16_t>(events), 0});
    peers.push_back(&peer);
  }
  if (::poll(ready.data(), ready.size(), -1) <= 0) return;
  for (size_t i = 0; i < peers.size(); ++i) {
    const int16_t found = ready[i + 1].revents;
    if ((found & POLLOUT) != 0) Write(*peers[i]);
    if ((found & (POLLIN | POLLHUP | POLLERR)) != 0) Read(*peers[i]);
  }
}

void NcclMesh::Write(Peer& peer) {
  const ssize_t n = ::send(peer.fd, peer.out.data(), peer.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n > 0) peer.out.erase(0, static_cast<size_t>(n));
}

void NcclMesh::Read(Peer& peer) {
  char buffer[64 << 10];
  const ssize_t n = ::recv(peer.fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {  // it is gone
    ::close(peer.fd);
    peer.fd = -1;
    return;
  }
  if (n < 0) return;
  peer.in.append(buffer, static_cast<size_t>(n));
  size_t at = 0;
  while (peer.in.size() - at >= sizeof(uint64_t)) {
    uint64_t length = 0;
    std::memcpy(&length, peer.in.data() + at, sizeof length);
    const size_t bytes = length == kTaken ? 0 : static_cast<size_t>(length);
    if (peer.in.size() - at - sizeof length < bytes) break;
    if (length == kTaken) {
      ++peer.taken;
    } else {
      peer.arrived.push_back(peer.in.substr(at + sizeof length, bytes));
    }
    at += sizeof length + bytes;
  }
  peer.in.erase(0, at);
}

}  // namespace shoal::comm
