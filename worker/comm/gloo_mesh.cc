// Tested by: tests/comm/gloo_test.cc
#include "worker/comm/gloo_mesh.h"

#include <arpa/inet.h>
#include <gloo/transport/tcp/address.h>
#include <gloo/transport/tcp/attr.h>
#include <gloo/transport/tcp/device.h>
#include <netinet/in.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/gloo_link.h"

namespace shoal::comm {
namespace {

namespace tcp = ::gloo::transport::tcp;

// Gloo wants a number; no wait of ours ends by it. Far from overflow when added to a clock in nanoseconds.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);
// How often a rank that waits looks whether it was aborted. It has noticed after the third time.
constexpr auto kLook = std::chrono::milliseconds(10);

// Gloo puts a path of its sources in front, and an address whose port has its bytes swapped after: the rank is named by
// us.
std::string ReasonOf(const std::exception& e) {
  std::string what = e.what();
  if (what.starts_with('[') && what.find("] ") != std::string::npos) what.erase(0, what.find("] ") + 2);
  const size_t address = what.find(" [");
  if (address != std::string::npos) {
    const size_t after = what.find_first_not_of("0123456789:", what.find(']', address) + 1);
    what.replace(address, after == std::string::npos ? after : after - address, after == std::string::npos ? "" : ":");
  }
  return what;
}

// What Pair::connect() takes. `host` is numeric.
std::vector<char> SocketAddress(const std::string& host, uint16_t port) {
  sockaddr_storage storage = {};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
  } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
  }
  return tcp::Address(storage).bytes();
}

}  // namespace

GlooMesh::GlooMesh(int rank, std::vector<int> peers, const AbortFlag* abort, CommStats* stats, WaitNote* note)
    : rank_(rank), peers_(std::move(peers)), abort_(abort), stats_(stats), note_(note) {}

absl::StatusOr<std::unique_ptr<GlooMesh>> GlooMesh::Listen(int rank, int ranks, std::vector<int> peers,
                                                           const std::string& host, const AbortFlag* abort,
                                                           CommStats* stats, WaitNote* note) {
  std::unique_ptr<GlooMesh> mesh(new GlooMesh(rank, std::move(peers), abort, stats, note));
  try {
    mesh->device_ = tcp::CreateDevice(tcp::attr(host.c_str()));
    mesh->context_ = mesh->device_->createContext(rank, ranks);
    mesh->context_->setTimeout(std::chrono::milliseconds::zero());  // none
    for (const int peer : mesh->peers_) mesh->context_->createPair(peer);
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("cannot listen for other ranks on ", host, ": ", ReasonOf(e)));
  }
  return mesh;
}

GlooMesh::~GlooMesh() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
    if (lifeline_ != nullptr) lifeline_->abortWaitRecv();
  }
  if (watch_.joinable()) watch_.join();
  if (guard_.joinable()) guard_.join();
  for (const int peer : peers_) {
    if (context_ != nullptr) context_->getPair(peer).reset();
  }
}

uint16_t GlooMesh::Port(int peer) const {
  const auto& address = static_cast<const tcp::Address&>(context_->getPair(peer)->address());
  const sockaddr_storage& storage = address.getSockaddr();
  if (storage.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(storage).sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);
}

void GlooMesh::StartConnecting(TimeNs deadline) {
  {
    MutexLock lock(mutex_);
    connecting_ = true;
    deadline_ = deadline;
  }
  watch_ = std::thread([this] { Watch(); });
}

absl::Status GlooMesh::Connect(int peer, const std::string& host, uint16_t port) {
  try {
    context_->getPair(peer)->connect(SocketAddress(host, port));
  } catch (const std::exception& e) {
    return Ended("a connection", peer, ReasonOf(e));
  }
  // A connection that was closed meanwhile returns like one that was made.
  {
    MutexLock lock(mutex_);
    if (!closed_) return absl::OkStatus();
  }
  return Ended("a connection", peer, "closed");
}

absl::StatusOr<std::vector<std::string>> GlooMesh::Greet(const std::vector<std::string>& mine) {
  const size_t count = peers_.size();
  for (const std::string& greeting : mine) greetings_.emplace_back(greeting.size(), 0);
  greetings_.insert(greetings_.end(), mine.begin(), mine.end());
  for (std::string& greeting : greetings_) {
    greeting_buffers_.push_back(Register(reinterpret_cast<std::byte*>(greeting.data()), greeting.size()));
  }
  for (size_t i = 0; i < count; ++i) {
    SHOAL_RETURN_IF_ERROR(PostReceive(*greeting_buffers_[i], peers_[i], GlooTag::kHello, greetings_[i].size()));
  }
  if (count > 0) guard_ = std::thread([this] { GuardLifelines(); });
  for (size_t i = 0; i < count; ++i) {
    SHOAL_RETURN_IF_ERROR(Send(*greeting_buffers_[count + i], peers_[i], GlooTag::kHello, mine[i].size()));
  }
  // Not for ours: who takes them is not known before theirs have been read.
  for (size_t i = 0; i < count; ++i) {
    SHOAL_RETURN_IF_ERROR(Wait(*greeting_buffers_[i], Way::kReceived, "the greeting", peers_[i]));
  }
  return std::vector<std::string>(greetings_.begin(), greetings_.begin() + static_cast<ptrdiff_t>(count));
}

void GlooMesh::Connected() {
  {
    MutexLock lock(mutex_);
    connecting_ = false;
  }
}

absl::StatusOr<GlooSender*> GlooMesh::AddSender(int peer, GlooTag tag, int slots, size_t bytes) {
  senders_.push_back(std::make_unique<GlooSender>(this, peer, tag, slots, bytes));
  return senders_.back().get();
}

absl::StatusOr<GlooReceiver*> GlooMesh::AddReceiver(int peer, GlooTag tag, int slots, size_t bytes) {
  receivers_.push_back(std::make_unique<GlooReceiver>(this, peer, tag, slots, bytes));
  SHOAL_RETURN_IF_ERROR(receivers_.back()->Post());
  return receivers_.back().get();
}

std::unique_ptr<GlooMesh::Buffer> GlooMesh::Register(std::byte* memory, size_t bytes) {
  return context_->createUnboundBuffer(memory, bytes);
}

absl::Status GlooMesh::Send(Buffer& buffer, int peer, GlooTag tag, size_t bytes) {
  try {
    buffer.send(peer, static_cast<uint64_t>(tag), 0, bytes);
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return Ended("room for a message", peer, ReasonOf(e));
  }
}

absl::Status GlooMesh::PostReceive(Buffer& buffer, int peer, GlooTag tag, size_t bytes) {
  try {
    buffer.recv(peer, static_cast<uint64_t>(tag), 0, bytes);
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return Ended("a message", peer, ReasonOf(e));
  }
}

absl::Status GlooMesh::Wait(Buffer& buffer, Way way, const char* what, int peer) {
  const RealClock clock;
  const TimeNs begin = clock.Now();
  const NotedWait noted(note_, static_cast<uint32_t>(peer) + 1);
  {
    MutexLock lock(mutex_);
    waiting_ = &buffer;
    waiting_for_ = peer;
    way_ = way;
  }
  absl::Status status = WaitInterruptibly(buffer, way, what, peer);
  {
    MutexLock lock(mutex_);
    waiting_ = nullptr;
  }
  stats_->waited += clock.Now() - begin;
  return status;
}

absl::Status GlooMesh::WaitForAbort(const char* what) {
  {
    MutexLock lock(mutex_);
    while (!closed_ && !aborted()) changed_.WaitFor(mutex_, kLook);
  }
  return Ended(what, rank_, "");
}

absl::Status GlooMesh::WaitInterruptibly(Buffer& buffer, Way way, const char* what, int peer) {
  try {
    // An interruption hides a message that came just before, so it is looked for again, and once more should an
    // interruption have come between two looks. Watch() interrupts only what will not succeed otherwise, and as long as
    // it waits.
    for (int looks = 0; looks < 3; ++looks) {
      const bool done = way == Way::kSent ? buffer.waitSend(kForever) : buffer.waitRecv(kForever);
      if (done) return absl::OkStatus();
    }
    return Ended(what, peer, "");
  } catch (const std::exception& e) {
    return Ended(what, peer, ReasonOf(e));
  }
}

absl::Status GlooMesh::Ended(const char* what, int peer, const std::string& reason) {
  MutexLock lock(mutex_);
  if (late_) return absl::DeadlineExceededError(absl::StrCat("no connection to rank ", peer, " in time"));
  if (aborted()) return absl::AbortedError(absl::StrCat("aborted while waiting for ", what, " of rank ", peer));
  const auto lost = lost_.find(peer);
  return absl::UnavailableError(absl::StrCat("lost rank ", peer, " while waiting for ", what, ": ",
                                             reason.empty() && lost != lost_.end() ? lost->second : reason));
}

void GlooMesh::CloseAll() {
  for (const int peer : peers_) {
    try {
      context_->getPair(peer)->close();
    } catch (const std::exception&) {
      // It ends one way or the other.
    }
  }
}

void GlooMesh::Watch() {
  const RealClock clock;
  MutexLock lock(mutex_);
  while (!stop_) {
    changed_.WaitFor(mutex_, kLook);
    if (connecting_ && !closed_ && (aborted() || clock.Now() >= deadline_)) {
      late_ = !aborted();
      closed_ = true;
      CloseAll();
    }
    // The waiting thread itself sleeps in Gloo.
    if (waiting_ != nullptr && note_ != nullptr) note_->looks.fetch_add(1, std::memory_order_relaxed);
    if (waiting_ == nullptr || (!closed_ && !aborted() && !lost_.contains(waiting_for_))) continue;
    if (way_ == Way::kSent) {
      waiting_->abortWaitSend();
    } else {
      waiting_->abortWaitRecv();
    }
  }
}

void GlooMesh::GuardLifelines() {
  std::vector<int> alive = peers_;
  while (!alive.empty()) {
    Buffer* lifeline = nullptr;
    {
      MutexLock lock(mutex_);
      if (stop_) return;
      lifelines_.push_back(Register(&lifeline_byte_, 1));
      lifeline = lifeline_ = lifelines_.back().get();
    }
    // One whose connection has ended refuses. That of another peer says nothing against the rest: it may have done its
    // part.
    std::erase_if(alive, [&](int peer) {
      try {
        lifeline->recv(peer, static_cast<uint64_t>(GlooTag::kLifeline), 0, 0);
        return false;
      } catch (const std::exception& e) {
        MutexLock lock(mutex_);
        lost_[peer] = ReasonOf(e);
        return true;
      }
    });
    try {
      if (!alive.empty() && !lifeline->waitRecv(kForever)) return;  // interrupted: this is being destroyed
    } catch (const std::exception&) {
      // The next round finds out whose it was.
    }
  }
}

}  // namespace shoal::comm
