// Tested by: tests/agent/host_test.cc
#include "worker/agent/host.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"
#include "common/plan/wire_grpc.h"

namespace shoal::agent {
namespace {

constexpr size_t kSmallFile = 32 * 1024;

// "MemAvailable:   123 kB" of /proc/meminfo, in bytes.
int64_t MemAvailable() {
  for (const auto line : absl::StrSplit(ReadSmallFile("/proc/meminfo"), '\n')) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "MemAvailable:")) continue;
    absl::ConsumeSuffix(&rest, "kB");
    int64_t kib = 0;
    if (absl::SimpleAtoi(absl::StripAsciiWhitespace(rest), &kib)) return kib * 1024;
  }
  return 0;
}

// What the control group (version 2) still allows; INT64_MAX without a limit.
int64_t GroupAvailable() {
  int64_t limit = 0, used = 0;
  if (!absl::SimpleAtoi(ReadSmallFile("/sys/fs/cgroup/memory.max"), &limit)) return INT64_MAX;
  if (!absl::SimpleAtoi(ReadSmallFile("/sys/fs/cgroup/memory.current"), &used)) return limit;
  return std::max<int64_t>(0, limit - used);
}

std::string Numeric(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST];
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  if (::getnameinfo(raw, length, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return address.ss_family == AF_INET6 ? absl::StrCat("[", host, "]") : std::string(host);
}

// The local address of a datagram socket that is connected to `to`; nothing is sent.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& to) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const std::string port = to.substr(to.rfind(':') + 1);
  const int error = ::getaddrinfo(plan::HostOf(to).c_str(), port.c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(absl::StrCat("cannot resolve ", to, ": ", ::gai_strerror(error)));
  std::string local;
  for (const addrinfo* a = found; a != nullptr && local.empty(); a = a->ai_next) {
    const int fd = ::socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    sockaddr_storage own = {};
    socklen_t length = sizeof own;
    if (::connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0) {
      local = Numeric(own, length);
    }
    ::close(fd);
  }
  ::freeaddrinfo(found);
  if (local.empty()) return absl::UnavailableError(absl::StrCat("there is no route to ", to));
  return local;
}

}  // namespace

std::string ReadSmallFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string text(kSmallFile, '\0');
  size_t size = 0;
  // The kernel gives such a file a page at a time.
  for (ssize_t n; size < text.size() && (n = ::read(fd, text.data() + size, text.size() - size)) > 0;) {
    size += static_cast<size_t>(n);
  }
  ::close(fd);
  text.resize(size);
  return text;
}

HostFacts ReadHostFacts() {
  HostFacts facts;
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) == 0) facts.hostname = name;
  facts.boot_id = std::string(absl::StripAsciiWhitespace(ReadSmallFile("/proc/sys/kernel/random/boot_id")));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) facts.cores = std::max(1, CPU_COUNT(&set));
  facts.memory_available = std::min(MemAvailable(), GroupAvailable());
  return facts;
}

uint64_t RandomNumber() {
  uint64_t n = 0;
  SHOAL_CHECK(::getrandom(&n, sizeof n, 0) == sizeof n);
  return n;
}

std::string RandomName() { return absl::StrCat(absl::Hex(RandomNumber(), absl::kZeroPad16)); }

int64_t ResidentBytes(int32_t pid) {
  const std::string statm = ReadSmallFile(absl::StrCat("/proc/", pid, "/statm"));
  const std::vector<std::string> fields = absl::StrSplit(statm, ' ');
  int64_t pages = 0;
  if (fields.size() < 2 || !absl::SimpleAtoi(fields[1], &pages)) return 0;
  return pages * ::sysconf(_SC_PAGESIZE);
}

bool IsAnyAddress(const std::string& address) {
  const std::string host = plan::HostOf(address);
  return host == "0.0.0.0" || host == "::";
}

absl::StatusOr<std::string> AdvertisedAddress(const std::string& listen, int port, const std::string& coordinator) {
  if (!IsAnyAddress(listen)) return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
  absl::StatusOr<std::string> local = LocalAddressTowards(coordinator);
  if (!local.ok()) return local.status();
  return absl::StrCat(*local, ":", port);
}

void Log(const std::string& line) { std::fprintf(stderr, "shoal worker: %s\n", line.c_str()); }

}  // namespace shoal::agent
