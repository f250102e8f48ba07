// Files as the checkpoint readers see them: read-only, of a size that is known, read at offsets by many threads at
// once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal::model {

// Thread-safe.
class File {
 public:
  // NotFound or PermissionDenied with the path; InvalidArgument when it is no regular file.
  static absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // when it was opened

  // Fills dst from `offset`. DataLoss when the file ends before.
  absl::Status ReadAt(int64_t offset, std::span<std::byte> dst) const;

 private:
  File(std::string path, int fd, int64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
  const std::string path_;
  const int fd_;
  const int64_t size_;
};

// A whole small text file. NotFound when there is none; InvalidArgument above `limit` bytes.
absl::StatusOr<std::string> ReadText(const std::string& path, int64_t limit);

// FNV-1a, 64 bits (Fowler, Noll, Vo; offset basis and prime of the published algorithm), continued from `state`.
inline constexpr uint64_t kFnvBasis = 0xCBF29CE484222325u;
uint64_t Fnv1a(std::string_view bytes, uint64_t state = kFnvBasis);

}  // namespace shoal::model
