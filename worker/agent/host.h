// Facts about this machine, and names made at random.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shoal::agent {

struct HostFacts {
  std::string hostname;
  std::string boot_id;           // processes that report the same one can share memory
  int cores = 1;                 // this process may run on
  int64_t memory_available = 0;  // bytes; the smaller of the machine's and of the control group's
};
HostFacts ReadHostFacts();

// A small file of /proc or /sys, of which at most 32 KiB are read; empty when there is none.
std::string ReadSmallFile(const std::string& path);

uint64_t RandomNumber();
std::string RandomName();  // 16 hexadecimal digits

// Resident bytes of a process; 0 when it is gone.
int64_t ResidentBytes(int32_t pid);

// "host:port" that others reach this host's `port` under, when it listens on `listen`: the address the kernel would use
// towards the coordinator where `listen` names all addresses. Resolves names, so it may take seconds.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& listen, int port, const std::string& coordinator);

// Whether a "host:port" to listen on means all addresses of this host.
bool IsAnyAddress(const std::string& address);

// One line to stderr.
void Log(const std::string& line);

}  // namespace shoal::agent
