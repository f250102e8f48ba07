#include "tests/http/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>

#include "common/base/check.h"

namespace shoal::http {

RawClient::RawClient(int port, int receive_buffer_bytes) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  SHOAL_CHECK(fd_ >= 0);
  if (receive_buffer_bytes > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  const timeval patience{20, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SHOAL_CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
}

RawClient::~RawClient() { Close(); }

void RawClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void RawClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;  // the peer closed; reading will tell
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

bool RawClient::Fill() {
  char chunk[4096];
  const ssize_t n = recv(fd_, chunk, sizeof chunk, 0);
  if (n <= 0) return false;
  buffered_.append(chunk, static_cast<size_t>(n));
  return true;
}

RawResponse RawClient::ReadHead() {
  RawResponse response;
  size_t end;
  while ((end = buffered_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill()) return response;
  }
  const std::string head = buffered_.substr(0, end + 2);
  buffered_.erase(0, end + 4);
  response.status = std::atoi(head.c_str() + head.find(' '));
  size_t at = head.find("\r\n") + 2;
  while (at < head.size()) {
    const size_t line_end = head.find("\r\n", at);
    const size_t colon = head.find(':', at);
    std::string name = head.substr(at, colon - at);
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    response.headers[name] = head.substr(colon + 2, line_end - colon - 2);
    at = line_end + 2;
  }
  return response;
}

RawResponse RawClient::Read() {
  RawResponse response = ReadHead();
  if (response.status == 0 || response.status == 100) return response;
  if (const auto length = response.headers.find("content-length"); length != response.headers.end()) {
    const size_t size = std::strtoull(length->second.c_str(), nullptr, 10);
    while (buffered_.size() < size) {
      if (!Fill()) return response;
    }
    response.body = buffered_.substr(0, size);
    buffered_.erase(0, size);
    response.complete = true;
  } else if (response.headers.count("transfer-encoding") != 0) {
    for (;;) {
      size_t line_end;
      while ((line_end = buffered_.find("\r\n")) == std::string::npos) {
        if (!Fill()) return response;
      }
      const size_t size = std::strtoull(buffered_.c_str(), nullptr, 16);
      while (buffered_.size() < line_end + 2 + size + 2) {
        if (!Fill()) return response;
      }
      response.body += buffered_.substr(line_end + 2, size);
      buffered_.erase(0, line_end + 2 + size + 2);
      if (size == 0) break;
    }
    response.complete = true;
  } else if (response.status == 204) {
    response.complete = true;
  } else {
    response.body = ReadToEnd();
    response.complete = true;
  }
  return response;
}

std::string RawClient::ReadToEnd() {
  while (Fill()) {
  }
  return std::move(buffered_);
}

std::string RawClient::ReadUntil(std::string_view mark) {
  size_t at;
  while ((at = buffered_.find(mark)) == std::string::npos) {
    if (!Fill()) return {};
  }
  std::string all = buffered_.substr(0, at + mark.size());
  buffered_.erase(0, at + mark.size());
  return all;
}

bool RawClient::AtEnd() { return buffered_.empty() && !Fill(); }

std::string PostRequest(std::string_view path, std::string_view body, std::string_view more_headers) {
  std::string request = "POST ";
  request.append(path).append(" HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: ");
  request.append(std::to_string(body.size())).append("\r\n").append(more_headers).append("\r\n").append(body);
  return request;
}

std::string GetRequest(std::string_view path, std::string_view more_headers) {
  std::string request = "GET ";
  return request.append(path).append(" HTTP/1.1\r\nHost: test\r\n").append(more_headers).append("\r\n");
}

int UnusedPort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  SHOAL_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  SHOAL_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

RawResponse Fetch(int port, std::string_view request) {
  RawClient client(port);
  client.Send(request);
  return client.Read();
}

}  // namespace shoal::http
