// The shared-memory segment of a group's channels. Anonymous when all ranks are here; else named by the group's token,
// made by the agent of rank 0 and opened by the others. Its name is removed as soon as all ranks have it, by whoever is
// first: the agent that made it may have been killed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/device/memory.h"

namespace shoal::agent {

class Channels {
 public:
  // No other agent takes part.
  static absl::StatusOr<Channels> Anonymous(size_t bytes);
  static absl::StatusOr<Channels> CreateNamed(const std::string& token, size_t bytes);
  // FailedPrecondition when the segment is smaller than `bytes`: the agents disagree.
  static absl::StatusOr<Channels> OpenNamed(const std::string& token, size_t bytes);

  Channels() = default;
  Channels(Channels&& other) noexcept;
  Channels& operator=(Channels&& other) noexcept;
  ~Channels() { Unlink(); }

  // Removes the name of a group's segment, whoever made it. Not an error when there is none.
  static void Remove(const std::string& token);

  int fd() const { return memory_.fd(); }
  size_t size() const { return memory_.size(); }
  // Removes the name. The memory stays as long as somebody has it.
  void Unlink();

 private:
  device::SharedMemory memory_;
  std::string name_;  // to be removed
};

}  // namespace shoal::agent
