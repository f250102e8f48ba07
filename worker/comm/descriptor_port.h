// How processes of one host that are not related hand each other a descriptor: a socket with a name of its own, which
// is no file. Who knows the address, and is of the same user, may send. One thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"

namespace shoal::comm {

// Processes that report the same text can send to each other. Unavailable: the system does not tell.
absl::StatusOr<std::string> DescriptorHost();
inline constexpr size_t kMaxDescriptorHost = 80;  // of [0-9a-f-]

class DescriptorPort {
 public:
  static constexpr size_t kAddressBytes = 64;  // hexadecimal digits, at random

  static absl::StatusOr<DescriptorPort> Open();
  DescriptorPort(DescriptorPort&& other) noexcept;
  DescriptorPort& operator=(DescriptorPort&&) = delete;
  ~DescriptorPort();

  const std::string& address() const { return address_; }

  // Hands over a copy of `fd` as that of rank `from`. Does not wait for who takes it. Unavailable: there is no such
  // port any more, or it is flooded.
  static absl::Status Send(std::string_view address, int from, int fd);

  // Until one has come from each rank of [0, ranks) but `own`; by rank, -1 for `own`; close-on-exec, the caller's.
  // What others send is left aside. DeadlineExceeded names who has not come; an error of `check`, which is asked all
  // the while, ends it.
  absl::StatusOr<std::vector<int>> Receive(int ranks, int own, TimeNs deadline,
                                           const std::function<absl::Status()>& check);

 private:
  DescriptorPort(int socket, std::string address) : socket_(socket), address_(std::move(address)) {}

  int socket_;
  std::string address_;
};

}  // namespace shoal::comm
