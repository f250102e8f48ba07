// Tested by: tests/maker/messages_test.cc
#include "worker/maker/messages.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shoal::maker {
namespace {

constexpr size_t kMaxPacket = 128 * 1024;  // below what a socket's buffer takes; the largest is a probe, of 20 KiB

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Text(const std::string& text) {
    Number(static_cast<uint32_t>(text.size()));
    bytes_ += text;
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <typename T>
  void Number(T* value) {
    sound_ = sound_ && rest_.size() >= sizeof *value;
    if (!sound_) return;
    std::memcpy(value, rest_.data(), sizeof *value);
    rest_.remove_prefix(sizeof *value);
  }
  void Text(std::string* text) {
    uint32_t size = 0;
    Number(&size);
    sound_ = sound_ && rest_.size() >= size;
    if (!sound_) return;
    text->assign(rest_.substr(0, size));
    rest_.remove_prefix(size);
  }
  bool whole() const { return sound_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool sound_ = true;
};

absl::Status Gone(const char* what) {
  if (errno == EPIPE || errno == ECONNRESET) return absl::UnavailableError("the other end is gone");
  return absl::ErrnoToStatus(errno, what);
}

}  // namespace

std::string Encode(const Request& r) {
  Writer w;
  w.Number(r.kind);
  w.Number(r.device);
  w.Number(r.bytes);
  w.Number(r.numerics);
  w.Number(r.threads);
  w.Text(r.setup);
  w.Text(r.model);
  w.Text(r.revision);
  return w.Take();
}

absl::StatusOr<Request> DecodeRequest(std::string_view bytes) {
  Reader in(bytes);
  Request r;
  in.Number(&r.kind);
  in.Number(&r.device);
  in.Number(&r.bytes);
  in.Number(&r.numerics);
  in.Number(&r.threads);
  in.Text(&r.setup);
  in.Text(&r.model);
  in.Text(&r.revision);
  const bool sound = in.whole() && r.kind <= Request::Kind::kWeights && r.device >= 0 && r.bytes >= 0 &&
                     r.numerics <= ops::Numerics::kFast && r.threads >= 1;
  if (!sound) return absl::DataLossError("a malformed request to a maker");
  return r;
}

std::string Encode(const Answer& a) {
  Writer w;
  w.Number(a.kind);
  w.Number(a.bytes);
  w.Number(a.total);
  w.Number(a.bytes_read);
  w.Number(a.load_ns);
  w.Number(a.code);
  w.Text(a.text);
  return w.Take();
}

absl::StatusOr<Answer> DecodeAnswer(std::string_view bytes) {
  Reader in(bytes);
  Answer a;
  in.Number(&a.kind);
  in.Number(&a.bytes);
  in.Number(&a.total);
  in.Number(&a.bytes_read);
  in.Number(&a.load_ns);
  in.Number(&a.code);
  in.Text(&a.text);
  if (!in.whole() || a.kind > Answer::Kind::kFailed) return absl::DataLossError("a malformed answer of a maker");
  return a;
}

absl::Status Send(int socket, const std::string& packet, int fd) {
  if (packet.size() > kMaxPacket) return absl::InternalError(absl::StrCat("a packet of ", packet.size(), " bytes"));
  iovec data = {const_cast<char*>(packet.data()), packet.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return Gone("sendmsg");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Receive(int socket, int* fd) {
  *fd = -1;
  std::string packet(kMaxPacket, '\0');
  iovec data = {packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof *fd)] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = -1;
  while ((n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno != EINTR) return Gone("recvmsg");
  }
  if (n == 0) return absl::UnavailableError("the other end is gone");
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    std::memcpy(fd, CMSG_DATA(header), sizeof *fd);
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
    return absl::DataLossError("a packet that was cut off (are there too many open files?)");
  }
  packet.resize(static_cast<size_t>(n));
  return packet;
}

}  // namespace shoal::maker
