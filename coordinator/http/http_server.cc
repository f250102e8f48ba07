#include "coordinator/http/http_server.h"

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "coordinator/http/session.h"

namespace shoal::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Collects what other threads post, so that a step with many answers wakes the I/O thread once.
class Mailbox final : public Executor {
 public:
  explicit Mailbox(asio::io_context* io) : io_(io) {}

  void Post(std::function<void()> fn) override {
    MutexLock lock(mutex_);
    if (io_ == nullptr) return;
    pending_.push_back(std::move(fn));
    if (pending_.size() == 1) {
      asio::post(*io_, [this] { Drain(); });
    }
  }

  // Before the io_context goes.
  void Shut() {
    std::vector<std::function<void()>> dropped;  // destroyed outside of the lock
    MutexLock lock(mutex_);
    io_ = nullptr;
    dropped.swap(pending_);
  }

 private:
  void Drain() {
    std::vector<std::function<void()>> batch;
    {
      MutexLock lock(mutex_);
      batch.swap(pending_);
    }
    for (const auto& fn : batch) fn();
  }

  Mutex mutex_;
  asio::io_context* io_ SHOAL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> pending_ SHOAL_GUARDED_BY(mutex_);
};

// One I/O thread with everything that lives on it. Members are destroyed from the last to the first: the io_context,
// with the sessions that its handlers own, before the Worker that they point to.
struct IoThread {
  Worker worker;
  std::unique_ptr<asio::io_context> io;
  std::shared_ptr<Mailbox> mailbox;
  std::thread thread;
};

class HttpServerImpl final : public HttpServer {
 public:
  explicit HttpServerImpl(const HttpServerOptions& options) : options_(options) {}
  ~HttpServerImpl() override;

  absl::Status Listen();
  void Run(const Handler& handler, const std::function<void(const Exchange&)>& on_exchange);

  int port() const override { return port_; }
  std::shared_ptr<Executor> executor() const override { return threads_[0]->mailbox; }
  void Drain() override { draining_.store(true, std::memory_order_relaxed); }
  int open_exchanges() const override { return open_exchanges_.load(std::memory_order_relaxed); }

 private:
  asio::awaitable<void> AcceptLoop();
  void Adopt(tcp::socket socket);

  const HttpServerOptions options_;
  int port_ = 0;
  std::atomic<int> open_exchanges_{0};
  std::atomic<bool> draining_{false};
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::unique_ptr<tcp::acceptor> acceptor_;  // on the first thread
  size_t next_ = 0;
};

absl::Status HttpServerImpl::Listen() {
  for (int i = 0; i < options_.threads; ++i) {
    auto thread = std::make_unique<IoThread>();
    thread->io = std::make_unique<asio::io_context>(1);
    thread->mailbox = std::make_shared<Mailbox>(thread->io.get());
    threads_.push_back(std::move(thread));
  }
  asio::io_context& io = *threads_[0]->io;
  error_code ec;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(options_.host, std::to_string(options_.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, ec);
  if (ec || found.empty()) {
    return absl::InvalidArgumentError("cannot listen on host '" + options_.host + "': " + ec.message());
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  const std::string where = options_.host + ":" + std::to_string(options_.port);
  acceptor_ = std::make_unique<tcp::acceptor>(io);
  acceptor_->open(endpoint.protocol(), ec);
  if (!ec) acceptor_->set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_->bind(endpoint, ec);
  if (!ec) acceptor_->listen(asio::socket_base::max_listen_connections, ec);
  if (ec == asio::error::address_in_use) {
    return absl::FailedPreconditionError("port " + std::to_string(options_.port) + " on " + options_.host +
                                         " is in use by another program; choose another with --port");
  }
  if (ec) return absl::InvalidArgumentError("cannot listen on " + where + ": " + ec.message());
  port_ = acceptor_->local_endpoint(ec).port();
  return absl::OkStatus();
}

void HttpServerImpl::Run(const Handler& handler, const std::function<void(const Exchange&)>& on_exchange) {
  for (auto& thread : threads_) {
    Worker& worker = thread->worker;
    worker.limits = options_.limits;
    worker.connections = std::max<size_t>(1, options_.limits.connections / threads_.size());
    worker.handler = handler;
    worker.on_exchange = on_exchange != nullptr ? on_exchange : [](const Exchange&) {};
    worker.executor = thread->mailbox;
    worker.io = thread->io.get();
    worker.open_exchanges = &open_exchanges_;
    worker.draining = &draining_;
  }
  asio::co_spawn(*threads_[0]->io, AcceptLoop(), asio::detached);
  for (auto& thread : threads_) {
    thread->thread = std::thread([io = thread->io.get()] {
      const auto guard = asio::make_work_guard(*io);
      io->run();
    });
  }
}

asio::awaitable<void> HttpServerImpl::AcceptLoop() {
  constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
  asio::steady_timer pause(*threads_[0]->io);
  while (acceptor_->is_open()) {
    asio::io_context& io = *threads_[next_]->io;
    auto [ec, socket] = co_await acceptor_->async_accept(io, kTuple);
    if (ec == asio::error::operation_aborted) co_return;
    if (ec) {
      // Out of file descriptors, or the peer went first: the listener itself is fine.
      pause.expires_after(std::chrono::milliseconds(50));
      co_await pause.async_wait(kTuple);
      continue;
    }
    Adopt(std::move(socket));
    next_ = (next_ + 1) % threads_.size();
  }
}

void HttpServerImpl::Adopt(tcp::socket socket) {
  IoThread* thread = threads_[next_].get();
  auto shared = std::make_shared<tcp::socket>(std::move(socket));
  asio::post(*thread->io, [thread, shared] { StartSession(std::move(*shared), &thread->worker); });
}

HttpServerImpl::~HttpServerImpl() {
  for (size_t i = 0; i < threads_.size(); ++i) {
    IoThread* thread = threads_[i].get();
    thread->mailbox->Shut();
    if (!thread->thread.joinable()) continue;
    asio::post(*thread->io, [this, i, thread] {
      error_code ignored;
      if (i == 0) acceptor_->close(ignored);
      CloseSessions(&thread->worker);
      thread->io->stop();
    });
  }
  for (auto& thread : threads_) {
    if (thread->thread.joinable()) thread->thread.join();
  }
  acceptor_.reset();
  for (auto& thread : threads_) {
    thread->io.reset();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options, Handler handler,
                                                              std::function<void(const Exchange&)> on_exchange) {
  auto server = std::make_unique<HttpServerImpl>(options);
  absl::Status status = server->Listen();
  if (!status.ok()) return status;
  server->Run(handler, on_exchange);
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace shoal::http
