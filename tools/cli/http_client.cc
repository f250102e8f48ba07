#include "tools/cli/http_client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

struct Address {
  std::string host, port;
};

absl::StatusOr<Address> ParseUrl(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  if (url.rfind(kScheme, 0) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(url, ": only http://host:port is understood"));
  }
  std::string rest = url.substr(kScheme.size());
  rest = rest.substr(0, rest.find('/'));
  const size_t colon = rest.rfind(':');
  if (colon == std::string::npos) return Address{rest, "80"};
  return Address{rest.substr(0, colon), rest.substr(colon + 1)};
}

http::request<http::string_body> MakeRequest(const Address& address, const std::string& method, const std::string& path,
                                             const std::string& body, const std::string& api_key) {
  http::request<http::string_body> request(http::string_to_verb(method), path, 11);
  request.set(http::field::host, address.host + ":" + address.port);
  request.set(http::field::user_agent, "shoal");
  if (!api_key.empty()) request.set(http::field::authorization, "Bearer " + api_key);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  return request;
}

// Reads the answer; error statuses are always collected, so that their message can be shown.
absl::StatusOr<HttpReply> ReadReply(tcp::socket& socket, const std::function<bool(std::string_view)>& on_data) {
  boost::system::error_code error;
  boost::beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  http::read_header(socket, buffer, parser, error);
  if (error) return absl::UnavailableError(absl::StrCat("no answer: ", error.message()));
  HttpReply reply{static_cast<int>(parser.get().result_int()), ""};
  char chunk[8192];
  while (!parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof chunk;
    http::read_some(socket, buffer, parser, error);
    if (error == http::error::need_buffer) error = {};
    if (error) return absl::DataLossError(absl::StrCat("the answer was cut off: ", error.message()));
    const std::string_view data(chunk, sizeof chunk - parser.get().body().size);
    if (data.empty()) continue;
    if (!on_data || reply.status != 200) {
      reply.body.append(data);
    } else if (!on_data(data)) {
      return reply;
    }
  }
  return reply;
}

}  // namespace

absl::StatusOr<HttpReply> Http(const std::string& url, const std::string& method, const std::string& path,
                               const std::string& body, const std::string& api_key,
                               const std::function<bool(std::string_view)>& on_data, std::atomic<int>* socket_fd) {
  SHOAL_ASSIGN_OR_RETURN(const Address address, ParseUrl(url));
  boost::system::error_code error;
  asio::io_context context;
  tcp::socket socket(context);
  const auto endpoints = tcp::resolver(context).resolve(address.host, address.port, error);
  if (!error) asio::connect(socket, endpoints, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("no server at ", url, " (", error.message(), "); start one with `shoal serve`, or give --url"));
  }
  http::write(socket, MakeRequest(address, method, path, body, api_key), error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot send: ", error.message()));
  if (socket_fd != nullptr) socket_fd->store(socket.native_handle());
  auto reply = ReadReply(socket, on_data);
  if (socket_fd != nullptr) socket_fd->store(-1);
  return reply;
}

}  // namespace shoal::cli
