#include "worker/device/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"

namespace shoal::device {
namespace {

// A write-sealed file cannot be mapped shared before Linux 6.7, not even for reading; a private mapping that is never
// written shows the same pages.
absl::StatusOr<std::byte*> Map(int fd, size_t bytes, bool writable, void* at) {
  const int seals = ::fcntl(fd, F_GET_SEALS);  // -1: no memfd
  const bool sealed = seals >= 0 && (seals & F_SEAL_WRITE) != 0;
  if (sealed && writable) return absl::PermissionDeniedError("this memory is sealed: it can only be read");
  const int flags = (sealed ? MAP_PRIVATE : MAP_SHARED) | (at != nullptr ? MAP_FIXED : 0);
  void* data = ::mmap(at, bytes, PROT_READ | (writable ? PROT_WRITE : 0), flags, fd, 0);
  if (data == MAP_FAILED)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", bytes, " bytes of shared memory"));
  return static_cast<std::byte*>(data);
}

absl::StatusOr<std::string> SegmentPath(const std::string& name) {
  const bool plain = !name.empty() && name.size() <= 200 && name.front() != '.' &&
                     std::none_of(name.begin(), name.end(), [](char c) { return c == '/' || c == '\0'; });
  if (!plain) return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" cannot name a shared memory segment"));
  return absl::StrCat("/", name);
}

// Commits all pages now, since a page that /dev/shm cannot give later is a SIGBUS.
absl::Status Commit(int fd, size_t bytes) {
  int error = 0;
  do {
    error = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  if (error == 0) return absl::OkStatus();
  if (error != ENOSPC) return absl::ErrnoToStatus(error, absl::StrCat("cannot allocate ", bytes, " bytes in /dev/shm"));
  struct statvfs fs = {};
  const uint64_t free = ::statvfs("/dev/shm", &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
  return absl::ResourceExhaustedError(absl::StrCat(
      "/dev/shm has ", free, " bytes free, ", bytes,
      " are needed; raise it with: mount -o "
      "remount,size=<bytes> /dev/shm, docker run --shm-size, or an emptyDir of medium Memory in Kubernetes"));
}

// EBUSY is also what the kernel says while it holds one of the pages for a moment itself (compaction, reclaim), which
// it waits out for a fraction of a second only. A process that maps them for writing does not go away by itself.
bool AddSeals(int fd, int seals) {
  constexpr DurationNs kPatience = 2 * kSecond;
  constexpr timespec kPause = {.tv_sec = 0, .tv_nsec = 20 * kMillisecond};
  const RealClock clock;
  const TimeNs give_up = clock.Now() + kPatience;
  while (::fcntl(fd, F_ADD_SEALS, seals) != 0) {
    if (errno != EBUSY || clock.Now() >= give_up) return false;
    ::nanosleep(&kPause, nullptr);
  }
  return true;
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Create(const std::string& label, size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("shared memory of 0 bytes");
  SharedMemory m;
  m.fd_ = ::memfd_create(label.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (m.fd_ < 0) return absl::ErrnoToStatus(errno, "memfd_create");
  if (::ftruncate(m.fd_, static_cast<off_t>(bytes)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot size shared memory to ", bytes, " bytes"));
  }
  // Whoever maps it may rely on its size: no process can pull pages from under another.
  if (::fcntl(m.fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) return absl::ErrnoToStatus(errno, "F_ADD_SEALS");
  SHOAL_ASSIGN_OR_RETURN(m.data_, Map(m.fd_, bytes, true, nullptr));
  m.size_ = bytes;
  return m;
}

absl::StatusOr<SharedMemory> SharedMemory::Attach(int fd, bool writable) {
  SharedMemory m;
  m.fd_ = fd;
  struct stat st = {};
  if (::fstat(fd, &st) != 0) {
    m.fd_ = -1;
    return absl::ErrnoToStatus(errno, absl::StrCat("descriptor ", fd));
  }
  if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is not shared memory, or is empty"));
  }
  SHOAL_ASSIGN_OR_RETURN(m.data_, Map(fd, static_cast<size_t>(st.st_size), writable, nullptr));
  m.size_ = static_cast<size_t>(st.st_size);
  return m;
}

absl::StatusOr<SharedMemory> SharedMemory::CreateNamed(const std::string& name, size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("shared memory of 0 bytes");
  SHOAL_ASSIGN_OR_RETURN(const std::string path, SegmentPath(name));
  SharedMemory m;
  m.fd_ = ::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (m.fd_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create /dev/shm", path));
  absl::Status committed = Commit(m.fd_, bytes);
  absl::StatusOr<std::byte*> data = committed.ok() ? Map(m.fd_, bytes, true, nullptr) : committed;
  if (!data.ok()) {
    ::shm_unlink(path.c_str());
    return data.status();
  }
  m.data_ = *data;
  m.size_ = bytes;
  return m;
}

absl::StatusOr<SharedMemory> SharedMemory::OpenNamed(const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(const std::string path, SegmentPath(name));
  const int fd = ::shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open /dev/shm", path));
  struct stat st = {};
  if (::fstat(fd, &st) != 0 || st.st_uid != ::geteuid()) {
    ::close(fd);
    return absl::PermissionDeniedError(absl::StrCat("/dev/shm", path, " belongs to another user"));
  }
  return Attach(fd, true);
}

void SharedMemory::Unlink(const std::string& name) {
  const absl::StatusOr<std::string> path = SegmentPath(name);
  if (path.ok()) ::shm_unlink(path->c_str());
}

SharedMemory SharedMemory::Hold(int fd, size_t bytes, int device) {
  SharedMemory m;
  m.fd_ = fd;
  m.size_ = bytes;
  m.device_ = device;
  return m;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(std::exchange(other.device_, kHost)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) ::munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
}

absl::Status SharedMemory::Seal() {
  if (data_ == nullptr) return absl::FailedPreconditionError("there is no memory to seal");
  // No writable mapping may be left while the seal is set. The address range stays reserved, so that pointers into it
  // are valid again afterwards.
  if (::mmap(data_, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, "cannot release the writable mapping");
  }
  absl::Status sealed;
  if (!AddSeals(fd_, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)) {
    sealed = absl::ErrnoToStatus(errno, "cannot seal shared memory (does a process still have it mapped for writing?)");
  }
  const absl::StatusOr<std::byte*> mapped = Map(fd_, size_, /*writable=*/!sealed.ok(), data_);
  SHOAL_RETURN_IF_ERROR(sealed);
  return mapped.status();
}

}  // namespace shoal::device
