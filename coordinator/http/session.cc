// Tested by: tests/http/http_server_test.cc
#include "coordinator/http/session.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <optional>

#include "common/base/check.h"
#include "coordinator/http/response_head.h"

namespace shoal::http {
namespace {

namespace asio = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kCompactBytes = 16 << 10;  // sent bytes are kept in the queue up to here

}  // namespace

class SessionResponder;

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(asio::ip::tcp::socket socket, Worker* worker)
      : socket_(std::move(socket)), deadline_(*worker->io), idle_(*worker->io), worker_(worker) {
    worker_->sessions.insert(this);
  }
  ~Session();

  void Start() {
    error_code ignored;
    socket_.non_blocking(true, ignored);
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    if (worker_->limits.socket_send_bytes > 0) {
      socket_.set_option(asio::socket_base::send_buffer_size(worker_->limits.socket_send_bytes), ignored);
    }
    Enter(Phase::kHeader, worker_->limits.header_timeout);
    asio::co_spawn(*worker_->io, ReadLoop(shared_from_this()), asio::detached);
  }

  // In place of Start, when there are too many.
  void TurnAway();
  void Close();

 private:
  friend class SessionResponder;
  enum class Phase : uint8_t {
    kIdle,  // between requests
    kHeader,
    kBody,
    kAnswer,  // a handler has the request; its answer is not yet written to the last byte
    kLinger,  // the last answer is out; input is drained so that no reset overtakes it
    kClosed,
  };

  static asio::awaitable<void> ReadLoop(std::shared_ptr<Session> self);
  bool ReadSome();
  void Pump();
  bool CheckHead();
  void Dispatch();
  void Refuse(ErrorKind kind, std::string message);
  void RefuseParseError(error_code ec);

  void Send(std::string_view bytes);
  void Flush();
  void WaitWritable();
  void Written();
  void Enter(Phase phase, DurationNs timeout);
  void ArmDeadline(DurationNs timeout);
  void DeadlinePassed();
  void Linger();
  void ReportExchange(int status);
  void ArmIdle();

  asio::ip::tcp::socket socket_;
  asio::steady_timer deadline_;
  asio::steady_timer idle_;  // of an answer that wants to know when it has written nothing for a while
  Worker* const worker_;

  Phase phase_ = Phase::kIdle;
  uint64_t deadline_generation_ = 0;
  std::string in_;  // read and not yet parsed
  std::optional<beast_http::request_parser<beast_http::string_body>> parser_;
  TimeNs arrived_ = 0;

  std::string out_;  // written from out_sent_ on
  size_t out_sent_ = 0;
  TimeNs sent_at_ = 0;  // the last Send
  bool waiting_writable_ = false;
  bool answer_complete_ = false;
  bool keep_alive_ = true;

  std::shared_ptr<SessionResponder> exchange_;  // of the request in phase kAnswer
};

// The exchange of one request. Handlers may keep it longer than the connection lives.
class SessionResponder final : public Responder {
 public:
  SessionResponder(std::shared_ptr<Session> session, std::string method, std::string request_id, bool head_only,
                   int http_version, bool keep_alive, TimeNs arrived)
      : session_(session),
        executor_(session->worker_->executor),
        method_(std::move(method)),
        request_id_(std::move(request_id)),
        head_only_(head_only),
        http_version_(http_version),
        keep_alive_(keep_alive),
        arrived_(arrived) {}

  void SetRoute(std::string_view route) override { route_ = route; }
  void Respond(Response response) override;
  void BeginStream() override;
  bool Write(std::string_view bytes) override;
  void End() override;
  void Break() override;
  void OnGone(std::function<void()> on_gone) override { on_gone_ = std::move(on_gone); }
  void OnIdle(DurationNs after, std::function<void()> on_idle) override;
  std::shared_ptr<Executor> executor() const override { return executor_; }

 private:
  friend class Session;
  bool KeepAlive(const Session& session) const {
    return keep_alive_ && !session.worker_->draining->load(std::memory_order_relaxed);
  }
  void Detach();  // the connection is gone or the answer is complete

  std::weak_ptr<Session> session_;
  std::shared_ptr<Executor> executor_;
  const std::string method_, request_id_;
  std::string route_ = "none";
  const bool head_only_;
  const int http_version_;  // 10 or 11
  const bool keep_alive_;
  const TimeNs arrived_;
  int status_ = 0;  // 0: nothing sent yet
  bool chunked_ = false;
  std::function<void()> on_gone_;
  DurationNs idle_after_ = 0;
  std::function<void()> on_idle_;
};

void SessionResponder::Respond(Response response) {
  std::shared_ptr<Session> session = session_.lock();
  if (session == nullptr) return;
  SHOAL_CHECK(status_ == 0);
  status_ = response.status;
  session->keep_alive_ = KeepAlive(*session);
  std::string bytes = ResponseHead(response, request_id_, session->keep_alive_);
  if (!head_only_) bytes += response.body;
  session->answer_complete_ = true;
  session->Send(bytes);
}

void SessionResponder::BeginStream() {
  std::shared_ptr<Session> session = session_.lock();
  if (session == nullptr) return;
  SHOAL_CHECK(status_ == 0);
  status_ = 200;
  chunked_ = http_version_ >= 11;
  session->Send(StreamHead(request_id_, chunked_, KeepAlive(*session)));
}

bool SessionResponder::Write(std::string_view bytes) {
  std::shared_ptr<Session> session = session_.lock();
  if (session == nullptr) return false;
  // An event may be larger than the queue, an echoed prompt for one; who has taken all before it is not slow.
  const size_t unsent = session->out_.size() - session->out_sent_;
  if (unsent > 0 && unsent + bytes.size() > session->worker_->limits.stream_queue_bytes) {
    session->Close();
    return false;
  }
  if (chunked_) {
    session->Send(Chunk(bytes));
  } else {
    session->Send(bytes);
  }
  return !session_.expired();
}

void SessionResponder::End() {
  std::shared_ptr<Session> session = session_.lock();
  if (session == nullptr) return;
  session->answer_complete_ = true;
  session->keep_alive_ = chunked_ && KeepAlive(*session);
  session->Send(chunked_ ? std::string_view("0\r\n\r\n") : std::string_view());
}

void SessionResponder::Break() {
  std::shared_ptr<Session> session = session_.lock();
  if (session != nullptr) session->Close();
}

void SessionResponder::OnIdle(DurationNs after, std::function<void()> on_idle) {
  std::shared_ptr<Session> session = session_.lock();
  if (session == nullptr) return;
  idle_after_ = after;
  on_idle_ = std::move(on_idle);
  session->sent_at_ = RealClock().Now();
  session->ArmIdle();
}

void SessionResponder::Detach() {
  session_.reset();
  on_gone_ = nullptr;
  on_idle_ = nullptr;
}

asio::awaitable<void> Session::ReadLoop(std::shared_ptr<Session> self) {
  while (self->phase_ != Phase::kClosed) {
    auto [wait_error] = co_await self->socket_.async_wait(asio::ip::tcp::socket::wait_read, kTuple);
    if (wait_error || self->phase_ == Phase::kClosed) break;
    if (!self->ReadSome()) break;
  }
  self->Close();
}

// False at the end of the input: a client that closes its sending side counts as gone. So does one that sends more
// behind an unanswered request than is kept: to stop reading would hide its end from us.
bool Session::ReadSome() {
  auto& buffer = worker_->read_buffer;
  error_code ec;
  const size_t bytes = socket_.read_some(asio::buffer(buffer), ec);
  if (ec == asio::error::would_block) return true;
  if (ec) return false;
  const bool refused = phase_ == Phase::kAnswer && exchange_ == nullptr;
  if (phase_ == Phase::kLinger || refused) return true;  // drained, not read
  in_.append(buffer.data(), bytes);
  if (phase_ == Phase::kAnswer) return in_.size() <= worker_->limits.pipelined_bytes;
  Pump();
  return true;
}

// Parses what is there, as far as one whole request.
void Session::Pump() {
  while (!in_.empty() && (phase_ == Phase::kIdle || phase_ == Phase::kHeader || phase_ == Phase::kBody)) {
    if (!parser_.has_value()) {
      parser_.emplace();
      parser_->eager(true);
      parser_->header_limit(static_cast<uint32_t>(worker_->limits.header_bytes));
      parser_->body_limit(worker_->limits.body_bytes);
      arrived_ = RealClock().Now();
      Enter(Phase::kHeader, worker_->limits.header_timeout);
    }
    error_code ec;
    const size_t used = parser_->put(asio::buffer(in_), ec);
    in_.erase(0, used);
    if (ec && ec != beast_http::error::need_more) return RefuseParseError(ec);
    if (parser_->is_header_done() && phase_ == Phase::kHeader && !CheckHead()) return;
    if (parser_->is_done()) {
      Dispatch();
      continue;  // the answer may already be out
    }
    // A chunk extension or trailer without an end is the one thing that the parser itself does not bound.
    if (in_.size() > worker_->limits.header_bytes + worker_->read_buffer.size()) {
      return Refuse(ErrorKind::kHeadersTooLarge, "the request has an endless header, chunk extension or trailer");
    }
    if (used == 0) return;
  }
}

// The headers are in: refuses what cannot be served, before the body comes. False when it refused.
bool Session::CheckHead() {
  const auto& head = parser_->get();
  if (head.version() != 10 && head.version() != 11) {
    Refuse(ErrorKind::kBadRequest, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    return false;
  }
  if (head.version() == 11 && head.count(beast_http::field::host) != 1) {
    Refuse(ErrorKind::kBadRequest, "an HTTP/1.1 request needs exactly one Host header");
    return false;
  }
  const bool has_encoding = head.count(beast_http::field::transfer_encoding) > 0;
  const bool has_length = head.count(beast_http::field::content_length) > 0;
  if (has_encoding && (has_length || !parser_->chunked() || head.version() == 10)) {
    Refuse(ErrorKind::kBadRequest, "Transfer-Encoding must be chunked, alone, and without Content-Length");
    return false;
  }
  const auto method = head.method();
  if ((method == beast_http::verb::post || method == beast_http::verb::put) && !has_encoding && !has_length) {
    Refuse(ErrorKind::kLengthRequired, "the request needs a Content-Length or chunked Transfer-Encoding");
    return false;
  }
  if (head.count(beast_http::field::expect) > 0 && !parser_->is_done()) {
    if (!boost::beast::iequals(head[beast_http::field::expect], "100-continue")) {
      Refuse(ErrorKind::kExpectationFailed, "only 'Expect: 100-continue' is known");
      return false;
    }
    Send("HTTP/1.1 100 Continue\r\n\r\n");
  }
  if (phase_ != Phase::kHeader) return false;  // the send failed
  Enter(Phase::kBody, worker_->limits.body_timeout);
  return true;
}

void Session::Dispatch() {
  auto message = parser_->release();
  parser_.reset();
  Request request;
  request.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message) {
    std::string name(field.name_string());
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  request.body = std::move(message.body());
  request.arrived = arrived_;
  request.request_id = UsableRequestId(request.Header("x-request-id"), worker_->limits.request_id_bytes);
  Enter(Phase::kAnswer, 0);
  answer_complete_ = false;
  exchange_ = std::make_shared<SessionResponder>(shared_from_this(), request.method, request.request_id,
                                                 request.method == "HEAD", static_cast<int>(message.version()),
                                                 message.keep_alive(), arrived_);
  worker_->open_exchanges->fetch_add(1, std::memory_order_relaxed);
  worker_->handler(std::move(request), exchange_);
}

void Session::TurnAway() {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  arrived_ = RealClock().Now();
  Refuse(ErrorKind::kUnavailable,
         "this server has all the connections that it takes; close idle ones, or try again shortly");
  asio::co_spawn(*worker_->io, ReadLoop(shared_from_this()), asio::detached);
}

// Answers something that never became a request, and closes.
void Session::Refuse(ErrorKind kind, std::string message) {
  const Response response = ErrorResponse(MakeError(kind, std::move(message)));
  const std::string id = UsableRequestId({}, worker_->limits.request_id_bytes);
  parser_.reset();
  in_.clear();
  Enter(Phase::kAnswer, 0);
  answer_complete_ = true;
  keep_alive_ = false;
  worker_->on_exchange({"none", "none", response.status, RealClock().Now() - arrived_});
  Send(ResponseHead(response, id, false) + response.body);
}

void Session::RefuseParseError(error_code ec) {
  if (ec == beast_http::error::body_limit) {
    Refuse(ErrorKind::kTooLarge,
           "the body is larger than the limit of " + std::to_string(worker_->limits.body_bytes) + " bytes");
  } else if (ec == beast_http::error::header_limit || ec == beast_http::error::buffer_overflow) {
    Refuse(ErrorKind::kHeadersTooLarge,
           "the headers are larger than the limit of " + std::to_string(worker_->limits.header_bytes) + " bytes");
  } else {
    Refuse(ErrorKind::kBadRequest, "the request is not valid HTTP: " + ec.message());
  }
}

void Session::Send(std::string_view bytes) {
  if (phase_ == Phase::kClosed || phase_ == Phase::kLinger) return;
  out_.append(bytes);
  if (exchange_ != nullptr && exchange_->on_idle_ != nullptr) sent_at_ = RealClock().Now();
  if (!waiting_writable_) Flush();
}

// Writes at once what the socket takes: an event costs one system call and no hop through the reactor.
void Session::Flush() {
  while (out_sent_ < out_.size()) {
    error_code ec;
    const size_t n = socket_.write_some(asio::buffer(out_.data() + out_sent_, out_.size() - out_sent_), ec);
    if (ec == asio::error::would_block) return WaitWritable();
    if (ec) return Close();
    out_sent_ += n;
  }
  out_.clear();
  out_sent_ = 0;
  Written();
}

void Session::WaitWritable() {
  if (out_sent_ > kCompactBytes) {
    out_.erase(0, out_sent_);
    out_sent_ = 0;
  }
  waiting_writable_ = true;
  ArmDeadline(worker_->limits.write_timeout);
  socket_.async_wait(asio::ip::tcp::socket::wait_write, [self = shared_from_this()](error_code ec) {
    self->waiting_writable_ = false;
    if (ec || self->phase_ == Phase::kClosed) return self->Close();
    if (self->phase_ == Phase::kAnswer) self->ArmDeadline(0);
    self->Flush();
  });
}

// Everything so far is with the kernel.
void Session::Written() {
  if (phase_ != Phase::kAnswer || !answer_complete_) return;
  if (exchange_ != nullptr) {
    ReportExchange(exchange_->status_);
    exchange_->Detach();
    exchange_.reset();
    idle_.cancel();
  }
  answer_complete_ = false;
  if (!keep_alive_) return Linger();
  Enter(Phase::kIdle, worker_->limits.idle_timeout);
  if (!in_.empty()) {
    // Not from here: a client that pipelines must not deepen the stack with each of its requests.
    asio::post(*worker_->io, [self = shared_from_this()] { self->Pump(); });
  }
}

void Session::ReportExchange(int status) {
  worker_->open_exchanges->fetch_sub(1, std::memory_order_relaxed);
  worker_->on_exchange({exchange_->method_, exchange_->route_, status, RealClock().Now() - exchange_->arrived_});
}

void Session::Enter(Phase phase, DurationNs timeout) {
  phase_ = phase;
  ArmDeadline(timeout);
}

// 0: none.
void Session::ArmDeadline(DurationNs timeout) {
  const uint64_t generation = ++deadline_generation_;
  if (timeout == 0) {
    deadline_.cancel();
    return;
  }
  deadline_.expires_after(std::chrono::nanoseconds(timeout));
  deadline_.async_wait([weak = weak_from_this(), generation](error_code ec) {
    std::shared_ptr<Session> self = weak.lock();
    if (!ec && self != nullptr && self->deadline_generation_ == generation) self->DeadlinePassed();
  });
}

// The timer is not moved by each event that is sent: when it fires it looks how much time is left.
void Session::ArmIdle() {
  const DurationNs left = sent_at_ + exchange_->idle_after_ - RealClock().Now();
  idle_.expires_after(std::chrono::nanoseconds(std::max<DurationNs>(left, 0)));
  idle_.async_wait([weak = weak_from_this(), exchange = std::weak_ptr<SessionResponder>(exchange_)](error_code ec) {
    std::shared_ptr<Session> self = weak.lock();
    if (ec || self == nullptr || self->exchange_ == nullptr || self->exchange_ != exchange.lock()) return;
    if (RealClock().Now() - self->sent_at_ >= self->exchange_->idle_after_) {
      self->sent_at_ = RealClock().Now();
      const std::function<void()> on_idle = self->exchange_->on_idle_;  // may end the exchange
      on_idle();
    }
    if (self->exchange_ != nullptr && self->exchange_->on_idle_ != nullptr) self->ArmIdle();
  });
}

void Session::DeadlinePassed() {
  const bool partial = parser_.has_value() || !in_.empty();
  if ((phase_ == Phase::kHeader || phase_ == Phase::kBody) && partial) {
    const char* what = phase_ == Phase::kHeader ? "the headers" : "the body";
    return Refuse(ErrorKind::kTimeout, std::string(what) + " of the request did not arrive in time");
  }
  Close();
}

void Session::Linger() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  Enter(Phase::kLinger, worker_->limits.linger_timeout);
}

void Session::Close() {
  if (phase_ == Phase::kClosed) return;
  Enter(Phase::kClosed, 0);
  idle_.cancel();
  error_code ignored;
  socket_.close(ignored);
  if (exchange_ == nullptr) return;
  ReportExchange(499);  // nginx's number for a client that went first
  std::function<void()> on_gone = std::move(exchange_->on_gone_);
  exchange_->Detach();
  exchange_.reset();
  // Not from here: Close happens inside calls of the very code that on_gone tells.
  if (on_gone != nullptr) asio::post(*worker_->io, std::move(on_gone));
}

Session::~Session() {
  if (exchange_ != nullptr) exchange_->Detach();
  worker_->sessions.erase(this);
}

void StartSession(asio::ip::tcp::socket socket, Worker* worker) {
  constexpr size_t kTurnedAway = 64;  // at a time, each for linger_timeout; past them there is no answer either
  const size_t open = worker->sessions.size();
  if (open >= worker->connections + kTurnedAway) return;
  const auto session = std::make_shared<Session>(std::move(socket), worker);
  if (open < worker->connections) {
    session->Start();
  } else {
    session->TurnAway();
  }
}

void CloseSessions(Worker* worker) {
  const std::vector<Session*> sessions(worker->sessions.begin(), worker->sessions.end());
  for (Session* session : sessions) {
    session->Close();
  }
}

}  // namespace shoal::http
