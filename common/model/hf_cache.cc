#include "common/model/hf_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/file.h"

namespace shoal::model {
namespace {

bool IsDirectory(const std::string& path) {
  struct stat st = {};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

// One component of a path that cannot lead out of its directory.
bool IsPlainName(std::string_view s) {
  return !s.empty() && s.size() <= 200 && s.front() != '.' && s.front() != '-' &&
         std::all_of(s.begin(), s.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
         });
}

}  // namespace

std::string HubCacheDirectory() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  if (const char* hub = set("HF_HUB_CACHE")) return hub;
  if (const char* home = set("HF_HOME")) return absl::StrCat(home, "/hub");
  if (const char* home = set("HOME")) return absl::StrCat(home, "/.cache/huggingface/hub");
  return "";
}

bool IsRepositoryName(std::string_view spec) {
  const std::string_view name = spec.substr(0, spec.find('@'));
  const size_t slash = name.find('/');
  return slash != std::string_view::npos && IsPlainName(name.substr(0, slash)) && IsPlainName(name.substr(slash + 1)) &&
         (name.size() == spec.size() || IsPlainName(spec.substr(name.size() + 1)));
}

absl::StatusOr<std::string> FindInHubCache(std::string_view spec, std::string* repository) {
  if (!IsRepositoryName(spec)) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(spec), " is not of the form org/name or org/name@revision"));
  }
  *repository = std::string(spec.substr(0, spec.find('@')));
  const std::string revision =
      repository->size() == spec.size() ? "main" : std::string(spec.substr(repository->size() + 1));
  const size_t slash = repository->find('/');
  const std::string hub = HubCacheDirectory();
  const std::string root =
      absl::StrCat(hub, "/models--", repository->substr(0, slash), "--", repository->substr(slash + 1));
  std::string commit = revision;
  if (absl::StatusOr<std::string> ref = ReadText(absl::StrCat(root, "/refs/", revision), 1024); ref.ok()) {
    commit = std::string(absl::StripAsciiWhitespace(*ref));
  }
  const std::string snapshot = absl::StrCat(root, "/snapshots/", commit);
  if (IsPlainName(commit) && IsDirectory(snapshot)) return snapshot;
  return absl::NotFoundError(absl::StrCat(
      std::string(spec), " is neither a file nor a directory, and the Hugging Face cache at ", hub, " has no revision ",
      revision, " of it (HF_HUB_CACHE and HF_HOME say where the cache is); get it with: huggingface-cli download ",
      *repository));
}

}  // namespace shoal::model
