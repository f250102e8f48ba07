// One connection: bytes to requests, answers to bytes. Internal to http: the only header with Asio in it. Everything
// runs on the one thread of `Worker::io`, so that nothing here needs a lock.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <unordered_set>

#include "coordinator/http/errors.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace shoal::http {

class Session;

// What the connections of one I/O thread share. Outlives `io` and all its sessions.
struct Worker {
  Limits limits;
  size_t connections = 0;  // of limits.connections, this thread's share
  Handler handler;
  std::function<void(const Exchange&)> on_exchange;
  std::shared_ptr<Executor> executor;
  boost::asio::io_context* io = nullptr;
  std::unordered_set<Session*> sessions;
  std::array<char, 16 << 10> read_buffer;       // lent to one read at a time
  const std::atomic<bool>* draining = nullptr;  // answers are the last of their connections
  std::atomic<int>* open_exchanges = nullptr;   // requests read and not yet answered to the last byte
};

// Starts to read requests. The connection keeps itself alive until the peer or a limit ends it. When the worker has all
// it takes, a 503 is the answer.
void StartSession(boost::asio::ip::tcp::socket socket, Worker* worker);

// Closes every connection of the worker, wherever it stands.
void CloseSessions(Worker* worker);

}  // namespace shoal::http
