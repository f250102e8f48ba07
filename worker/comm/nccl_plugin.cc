#include "worker/comm/nccl_plugin.h"

#include <dlfcn.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace shoal::comm {

absl::StatusOr<NcclApi*> NcclOfPlugin(const std::string& path) {
  const std::string file = std::filesystem::absolute(path).string();
  void* const library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA plug-in ", path, " has not been opened"));
  }
  using Entry = decltype(&shoal_nccl);
  const auto entry = reinterpret_cast<Entry>(::dlsym(library, kNcclEntry));
  if (entry == nullptr) {
    ::dlclose(library);
    return absl::FailedPreconditionError(absl::StrCat("CUDA plug-in ", path, " has no ", kNcclEntry, "()"));
  }
  return entry();
}

}  // namespace shoal::comm
