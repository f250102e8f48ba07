// Tested by: tests/comm/nccl_plugin_test.cc
#include "worker/comm/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace shoal::comm {
namespace {

constexpr char kHelp[] =
    "install NCCL 2.22 or later (libnccl2, or the wheel nvidia-nccl-cu13), or put libnccl.so.2 beside libshoal_cuda.so";

// NCCL counts 2.28.9 as 22809 (NCCL_VERSION_CODE); up to 2.8 it was 2804.
constexpr int kMajorUnit = 10000, kMinorUnit = 100, kOldMajorUnit = 1000;
constexpr int kMajor = 2;
// The first that aborts several communicators at once: one by one, each waits for what the others hold up.
constexpr int kOldest = 22200;

std::string VersionText(int code) {
  const int major_unit = code < kMajorUnit ? kOldMajorUnit : kMajorUnit;
  return absl::StrCat(code / major_unit, ".", code % major_unit / kMinorUnit, ".", code % kMinorUnit);
}

absl::Status CheckVersion(int code) {
  if (code < kOldest) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL ", VersionText(code), " is too old: ", kHelp));
  }
  if (code / kMajorUnit != kMajor) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL ", VersionText(code), " is of a later major version than ",
                                                      kMajor, ", which this plug-in knows: ", kHelp));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NcclLibrary> NcclLibrary::Open(const std::string& file) {
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL cannot be loaded: ", ::dlerror(), ": ", kHelp));
  }
  using GetVersion = int (*)(int*);
  const auto get_version = reinterpret_cast<GetVersion>(::dlsym(handle, "ncclGetVersion"));
  int code = 0;
  absl::Status status;
  if (get_version == nullptr || get_version(&code) != 0) {
    status = absl::FailedPreconditionError(absl::StrCat(file, " tells no version of NCCL: ", kHelp));
  } else {
    status = CheckVersion(code);
  }
  if (!status.ok()) {
    ::dlclose(handle);
    return status;
  }
  return NcclLibrary(handle, VersionText(code));
}

absl::StatusOr<void*> NcclLibrary::Find(const char* function) const {
  void* const found = ::dlsym(handle_, function);
  if (found == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL ", version_, " has no ", function, ": ", kHelp));
  }
  return found;
}

}  // namespace shoal::comm
