#include "tools/cli/http_client.h"

#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Error = boost::system::error_code;

struct Address {
  std::string host, port;  // an IPv6 host without its brackets
  std::string authority;   // both, as the Host header has them
};

absl::StatusOr<Address> ParseUrl(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  if (url.rfind(kScheme, 0) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(url, ": only http://host:port is understood"));
  }
  const std::string rest = url.substr(kScheme.size());
  const std::string authority = rest.substr(0, rest.find('/'));
  const size_t bracket = authority.rfind('[', 0) == 0 ? authority.find(']') : std::string::npos;
  const size_t colon = authority.find(':', bracket == std::string::npos ? 0 : bracket);
  std::string host = authority.substr(0, colon);
  if (bracket != std::string::npos) host = host.substr(1, bracket - 1);
  return Address{host, colon == std::string::npos ? "80" : authority.substr(colon + 1), authority};
}

http::request<http::string_body> MakeRequest(const Address& address, const HttpCall& call) {
  http::request<http::string_body> request(http::string_to_verb(call.method), call.path, 11);
  request.set(http::field::host, address.authority);
  request.set(http::field::user_agent, "shoal");
  if (!call.api_key.empty()) request.set(http::field::authorization, "Bearer " + call.api_key);
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = call.body;
  request.prepare_payload();
  return request;
}

// One connection. Only asynchronous operations have deadlines, so each is started and run to its end.
class Connection {
 public:
  explicit Connection(const HttpCall& call) : call_(call), stream_(context_) {
    stream_.expires_after(std::chrono::nanoseconds(call.timeout));
  }
  ~Connection() {
    if (call_.interrupt != nullptr) call_.interrupt->Watch(-1);
  }

  absl::Status Send(const Address& address);
  // Error statuses are always collected, so that their message can be shown.
  absl::StatusOr<HttpReply> Receive();

 private:
  template <typename Start>
  Error Run(Start start) {
    Error result;
    start([&result](const Error& error, const auto&...) { result = error; });
    context_.restart();
    context_.run();
    return result;
  }
  // What an error of an operation means, once interrupts and the deadline are ruled out.
  absl::Status Explain(const Error& error, const absl::Status& otherwise) const {
    if (call_.interrupt != nullptr && call_.interrupt->requested()) return absl::CancelledError("interrupted");
    if (error != beast::error::timeout) return otherwise;
    return absl::DeadlineExceededError(
        absl::StrCat("the server at ", call_.url, " does not answer (waited ", call_.timeout / kSecond, " s)"));
  }

  const HttpCall& call_;
  asio::io_context context_;
  beast::tcp_stream stream_;
};

absl::Status Connection::Send(const Address& address) {
  Error error;
  const auto endpoints = tcp::resolver(context_).resolve(address.host, address.port, error);
  if (!error) error = Run([&](auto done) { stream_.async_connect(endpoints, done); });
  if (error) {
    return Explain(error, absl::UnavailableError(absl::StrCat("no server at ", call_.url, " (", error.message(),
                                                              "); start one with `shoal serve`, or give --url")));
  }
  if (call_.interrupt != nullptr) {
    call_.interrupt->Watch(stream_.socket().native_handle());
    // One that came before found no connection to shut down.
    if (call_.interrupt->requested()) return absl::CancelledError("interrupted");
  }
  const auto request = MakeRequest(address, call_);
  error = Run([&](auto done) { http::async_write(stream_, request, done); });
  if (error) return Explain(error, absl::UnavailableError(absl::StrCat("cannot send: ", error.message())));
  return absl::OkStatus();
}

// As after the death of a coordinator: another one answers soon, but not this request.
constexpr char kCutOff[] = "the answer was cut off: the server's end is gone; ask again";

absl::StatusOr<HttpReply> Connection::Receive() {
  if (call_.on_data) stream_.expires_never();
  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  Error error = Run([&](auto done) { http::async_read_header(stream_, buffer, parser, done); });
  if (error) return Explain(error, absl::UnavailableError(absl::StrCat("no answer: ", error.message())));
  HttpReply reply{static_cast<int>(parser.get().result_int()), ""};
  char chunk[8192];
  while (!parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof chunk;
    error = Run([&](auto done) { http::async_read_some(stream_, buffer, parser, done); });
    if (error == http::error::need_buffer) error = {};
    if (error == http::error::partial_message) return Explain(error, absl::DataLossError(kCutOff));
    if (error) return Explain(error, absl::DataLossError(absl::StrCat("the answer was cut off: ", error.message())));
    const std::string_view data(chunk, sizeof chunk - parser.get().body().size);
    if (data.empty()) continue;
    if (!call_.on_data || reply.status != 200) {
      reply.body.append(data);
    } else if (!call_.on_data(data)) {
      return reply;
    }
  }
  return reply;
}

}  // namespace

void Interrupt::Request() {
  requested_.store(true);
  const int fd = fd_.load();
  if (fd >= 0) shutdown(fd, SHUT_RDWR);
}

absl::StatusOr<HttpReply> Http(const HttpCall& call) {
  SHOAL_ASSIGN_OR_RETURN(const Address address, ParseUrl(call.url));
  Connection connection(call);
  SHOAL_RETURN_IF_ERROR(connection.Send(address));
  return connection.Receive();
}

}  // namespace shoal::cli
