#include "worker/agent/channels.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::agent {
namespace {

std::string NameOf(const std::string& token) { return absl::StrCat("shoal-", token); }

}  // namespace

absl::StatusOr<Channels> Channels::Anonymous(size_t bytes) {
  Channels c;
  SHOAL_ASSIGN_OR_RETURN(c.memory_, device::SharedMemory::Create("shoal-channels", bytes));
  return c;
}

absl::StatusOr<Channels> Channels::CreateNamed(const std::string& token, size_t bytes) {
  Channels c;
  SHOAL_ASSIGN_OR_RETURN(c.memory_, device::SharedMemory::CreateNamed(NameOf(token), bytes));
  c.name_ = NameOf(token);
  return c;
}

absl::StatusOr<Channels> Channels::OpenNamed(const std::string& token, size_t bytes) {
  Channels c;
  SHOAL_ASSIGN_OR_RETURN(c.memory_, device::SharedMemory::OpenNamed(NameOf(token)));
  if (c.memory_.size() < bytes) {
    return absl::FailedPreconditionError(absl::StrCat("the group's channel segment has ", c.memory_.size(), " bytes, ",
                                                      bytes, " are needed: the agents disagree on limits"));
  }
  c.name_ = NameOf(token);
  return c;
}

void Channels::Remove(const std::string& token) { device::SharedMemory::Unlink(NameOf(token)); }

Channels::Channels(Channels&& other) noexcept
    : memory_(std::move(other.memory_)), name_(std::exchange(other.name_, {})) {}

Channels& Channels::operator=(Channels&& other) noexcept {
  Unlink();
  memory_ = std::move(other.memory_);
  name_ = std::exchange(other.name_, {});
  return *this;
}

void Channels::Unlink() {
  if (!name_.empty()) device::SharedMemory::Unlink(std::exchange(name_, {}));
}

}  // namespace shoal::agent
