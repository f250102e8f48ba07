#include "common/model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::model {

absl::StatusOr<std::unique_ptr<File>> File::Open(const std::string& path) {
  // Non-blocking: opening a FIFO must not wait for a writer. Regular files do not notice.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  struct stat st = {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return std::unique_ptr<File>(new File(path, fd, st.st_size));
}

File::~File() { ::close(fd_); }

absl::Status File::ReadAt(int64_t offset, std::span<std::byte> dst) const {
  size_t done = 0;
  while (done < dst.size()) {
    const ssize_t n = ::pread(fd_, dst.data() + done, dst.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_));
    if (n == 0) {
      return absl::DataLossError(absl::StrCat(path_, " is truncated: ", dst.size(), " bytes wanted at offset ", offset,
                                              ", the file ends after ", done, " of them"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadText(const std::string& path, int64_t limit) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, File::Open(path));
  if (file->size() > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->size(), " bytes; at most ", limit, " are expected of such a file"));
  }
  std::string text(static_cast<size_t>(file->size()), '\0');
  SHOAL_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(text))));
  return text;
}

uint64_t Fnv1a(std::string_view bytes, uint64_t state) {
  constexpr uint64_t kPrime = 0x100000001B3u;
  for (const char c : bytes) state = (state ^ static_cast<uint8_t>(c)) * kPrime;
  return state;
}

}  // namespace shoal::model
