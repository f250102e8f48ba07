#include "worker/agent/agent.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/build_id.h"
#include "common/base/status_macros.h"
#include "common/plan/wire_grpc.h"
#include "worker/agent/control.h"
#include "worker/agent/host.h"
#include "worker/agent/registration.h"
#include "worker/agent/service.h"
#include "worker/device/open.h"
#include "worker/maker/client.h"

namespace shoal::agent {
namespace {

// Short, since a coordinator that was killed is back within a second and everything waits for its agents.
constexpr DurationNs kFirstRetry = 100 * kMillisecond, kLongestRetry = 250 * kMillisecond;
constexpr auto kPoll = std::chrono::milliseconds(20);

absl::Status CheckAddress(const std::string& what, const std::string& address, bool insecure) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " address \"", address, "\" is not of the form host:port"));
  }
  if (!insecure && !plan::IsLoopback(address)) {
    return absl::InvalidArgumentError(absl::StrCat("the ", what, " address ", address,
                                                   " is off loopback, where there is no TLS yet: say --insecure to "
                                                   "allow it"));
  }
  return absl::OkStatus();
}

// The coordinator connects to it: it has to name one host and one port.
absl::Status CheckAdvertised(const std::string& address, bool insecure) {
  SHOAL_RETURN_IF_ERROR(CheckAddress("advertise", address, insecure));
  int port = 0;
  if (!absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("advertise address \"", address, "\" needs a port of 1 to 65535: the coordinator connects to it"));
  }
  if (IsAnyAddress(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("advertise address \"", address, "\" means all addresses of a host: name one that reaches it"));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const AgentOptions& o) {
  SHOAL_RETURN_IF_ERROR(CheckAddress("coordinator", o.coordinator, o.insecure));
  SHOAL_RETURN_IF_ERROR(CheckAddress("listen", o.listen, o.insecure));
  if (!o.advertise.empty()) SHOAL_RETURN_IF_ERROR(CheckAdvertised(o.advertise, o.insecure));
  if (!o.advertise.empty() && plan::IsLoopback(o.listen) && !plan::IsLoopback(o.advertise)) {
    Log(absl::StrCat("ranks listen on the host of --listen, ", o.listen,
                     ": those of other hosts will not reach them there"));
  }
  if (o.slots < (o.device == device::kCuda ? 0 : 1) || o.slots > 64)
    return absl::InvalidArgumentError(absl::StrCat(o.slots, " slots: 1 to 64 are possible"));
  if (o.threads < 0 || o.memory_bytes < 0 || o.orphan_timeout < 0) {
    return absl::InvalidArgumentError("threads, memory and orphan time-out cannot be negative");
  }
  return absl::OkStatus();
}

std::string OwnBinary() {
  char path[4096];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : std::string("/proc/self/exe");
}

std::string Binary(const AgentOptions& o) { return o.rank_binary.empty() ? OwnBinary() : o.rank_binary; }

GroupContext Describe(const AgentOptions& o, CudaDevices* cuda) {
  const HostFacts facts = ReadHostFacts();
  GroupContext context;
  plan::AgentInfo& self = context.self;
  self.id = RandomName();
  self.incarnation = RandomNumber();
  self.hostname = facts.hostname;
  self.boot_id = facts.boot_id;
  self.build_id = o.build_id.empty() ? BuildId() : o.build_id;
  self.pid = ::getpid();
  const int64_t memory = o.memory_bytes > 0 ? o.memory_bytes : facts.memory_available / 2;
  const int threads = o.threads > 0 ? o.threads : std::max(1, facts.cores / std::max(1, o.slots));
  if (cuda != nullptr) self.slots = cuda->slots();
  for (int i = 0; cuda == nullptr && i < o.slots; ++i) self.slots.push_back({o.device, threads, memory / o.slots});
  context.cuda = cuda;
  context.rank_binary = Binary(o);
  context.log_directory = o.log_directory;
  context.cores = facts.cores;
  return context;
}

// False: *stop became true first.
bool Nap(DurationNs time, const std::atomic<bool>& stop) {
  const RealClock clock;
  const TimeNs until = clock.Now() + time;
  while (!stop.load() && clock.Now() < until) std::this_thread::sleep_for(kPoll);
  return !stop.load();
}

// One connection to the coordinator, from Register to its loss.
absl::Status Attend(const AgentOptions& o, Control& control, int port, const std::atomic<bool>& stop,
                    bool* registered) {
  const RealClock clock;
  CoordinatorSession session(o.coordinator, &clock);
  SHOAL_ASSIGN_OR_RETURN(const std::string own, AdvertisedAddress(o.listen, port, o.coordinator));
  control.SetAddress(o.advertise.empty() ? own : o.advertise, plan::HostOf(own));
  const plan::AgentInfo info = control.Info();
  DurationNs interval = 0;
  SHOAL_RETURN_IF_ERROR(session.Register(info, stop, &interval));
  *registered = true;
  if (o.on_registered != nullptr) o.on_registered();
  return session.Beat(
      interval, [&control] { return control.Beat(); },
      [&control, seen = control.changes()]() mutable {
        const uint64_t now = control.changes();
        return std::exchange(seen, now) != now;
      },
      stop);
}

// Registers again and again until there is a reason to end.
absl::Status Serve(const AgentOptions& o, Control& control, int port, const std::atomic<bool>& stop) {
  const RealClock clock;
  TimeNs alone_since = clock.Now();
  DurationNs retry = kFirstRetry;
  while (!stop.load()) {
    bool registered = false;
    const absl::Status lost = Attend(o, control, port, stop, &registered);
    if (stop.load()) break;
    if (!registered && absl::IsFailedPrecondition(lost)) return lost;
    if (registered) {
      Log(absl::StrCat("lost the coordinator at ", o.coordinator, ": ", lost.message()));
      control.Drop("the agent has lost the coordinator");
      alone_since = clock.Now();
      retry = kFirstRetry;
    }
    if (clock.Now() - alone_since > o.orphan_timeout) {
      return absl::UnavailableError(absl::StrCat("no coordinator at ", o.coordinator, " for ",
                                                 o.orphan_timeout / kSecond, " s: ", lost.message()));
    }
    if (!Nap(retry, stop)) break;
    retry = std::min(2 * retry, kLongestRetry);
  }
  return absl::OkStatus();
}

void WarnOfSharers(const CudaDevices& cuda) {
  std::set<int> told;
  for (int slot = 0; slot < static_cast<int>(cuda.slots().size()); ++slot) {
    if (cuda.Sharers(slot) == 1 || !told.insert(cuda.Index(slot)).second) continue;
    Log(absl::StrCat("CUDA device ", cuda.Index(slot), " is for ", cuda.Sharers(slot),
                     " ranks: they take turns on it, which is for tests of correctness, not speed"));
  }
}

}  // namespace

absl::Status RunAgent(const AgentOptions& options, const std::atomic<bool>& stop) {
  SHOAL_RETURN_IF_ERROR(CheckOptions(options));
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Endpoint> endpoint, Endpoint::Listen(options.listen));
  const maker::Makers makers(Binary(options), &stop);
  std::unique_ptr<CudaDevices> cuda;
  if (options.device == device::kCuda) {
    SHOAL_ASSIGN_OR_RETURN(
        cuda, CudaDevices::Find(&makers, {options.slots, options.gpu_memory_utilization, options.device_ids}));
    WarnOfSharers(*cuda);
  }
  Control control(Describe(options, cuda.get()));
  endpoint->Serve(&control);
  absl::Status ended = Serve(options, control, endpoint->port(), stop);
  control.Stop();    // first: all calls wait for its answers
  endpoint.reset();  // then the calls, which point at it
  return ended;
}

}  // namespace shoal::agent
