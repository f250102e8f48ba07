// Opens NCCL, which may be installed or not, and looks at its version before anything else of it is used. Part of the
// CUDA plug-in; no NCCL headers. Any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shoal::comm {

inline constexpr char kNcclFile[] = "libnccl.so.2";

class NcclLibrary {
 public:
  // Looked for along the RUNPATH of the library that this is part of, then where the system has its libraries. It stays
  // loaded. FailedPrecondition, with what helps: it is not there, too old, or of a later major version.
  static absl::StatusOr<NcclLibrary> Open(const std::string& file = kNcclFile);

  // "2.28.9"
  const std::string& version() const { return version_; }
  // FailedPrecondition: it has no such function.
  absl::StatusOr<void*> Find(const char* function) const;

 private:
  NcclLibrary(void* handle, std::string version) : handle_(handle), version_(std::move(version)) {}

  void* handle_;
  std::string version_;
};

}  // namespace shoal::comm
