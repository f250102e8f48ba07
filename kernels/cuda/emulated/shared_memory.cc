// Tested by: tests/kernels/cuda/accelerator_test.cc
#include "kernels/cuda/emulated/shared_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"

namespace shoal::cuda::emulated {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::string NameOf(int device) { return absl::StrCat("shoal_emulated_device_", device); }

// What the kernel calls the file behind a descriptor: "/memfd:NAME (deleted)" for ours.
std::string FileOf(int fd) {
  char name[256];
  const ssize_t size = ::readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), name, sizeof name);
  return size < 0 ? "" : std::string(name, static_cast<size_t>(size));
}

// The files that this process has open.
std::set<std::pair<dev_t, ino_t>> OpenFiles() {
  std::set<std::pair<dev_t, ino_t>> files;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), ::closedir);
  if (folder == nullptr) return files;
  while (const dirent* entry = ::readdir(folder.get())) {
    struct stat info = {};
    if (::fstat(std::atoi(entry->d_name), &info) == 0) files.emplace(info.st_dev, info.st_ino);
  }
  return files;
}

}  // namespace

SharedMemory::~SharedMemory() {
  for (const auto& [memory, mapping] : mappings_) ::munmap(const_cast<std::byte*>(memory), mapping.bytes);
}

void SharedMemory::Remember(const Piece& piece) {
  const bool known = std::any_of(pieces_.begin(), pieces_.end(),
                                 [&](const Piece& p) { return p.dev == piece.dev && p.ino == piece.ino; });
  if (!known) pieces_.push_back(piece);
}

absl::StatusOr<ops::Accelerator::SharedHandle> SharedMemory::Create(size_t bytes) {
  const int fd = ::memfd_create(NameOf(device_).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return absl::InternalError("memfd_create failed");
  struct stat info = {};
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0 || ::fcntl(fd, F_ADD_SEALS, kSeals) != 0 ||
      ::fstat(fd, &info) != 0) {
    ::close(fd);
    return absl::ResourceExhaustedError(absl::StrCat("a memory file cannot have ", bytes, " bytes"));
  }
  Remember({info.st_dev, info.st_ino, bytes});
  return ops::Accelerator::SharedHandle{fd, bytes};
}

absl::StatusOr<void*> SharedMemory::MapOf(int device, int fd, size_t bytes) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || ::fcntl(fd, F_GET_SEALS) != kSeals ||
      FileOf(fd) != absl::StrCat("/memfd:", NameOf(device), " (deleted)")) {
    return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is not of memory of device ", device));
  }
  if (bytes != static_cast<size_t>(info.st_size)) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory has not the size told, ", bytes, " bytes"));
  }
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat("cannot map ", bytes, " bytes"));
  if (device == device_) Remember({info.st_dev, info.st_ino, bytes});
  mappings_[static_cast<std::byte*>(memory)] = {bytes, info.st_ino};
  return memory;
}

void SharedMemory::Unmap(void* memory, size_t bytes) {
  const auto mapping = mappings_.find(static_cast<std::byte*>(memory));
  SHOAL_CHECK(mapping != mappings_.end() && mapping->second.bytes == bytes);
  SHOAL_CHECK(::munmap(memory, bytes) == 0);
  mappings_.erase(mapping);
}

bool SharedMemory::Has(const void* memory, size_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(memory);
  auto mapping = mappings_.upper_bound(begin);
  if (mapping == mappings_.begin()) return false;
  --mapping;
  const auto offset = static_cast<size_t>(begin - mapping->first);
  return offset <= mapping->second.bytes && bytes <= mapping->second.bytes - offset;
}

size_t SharedMemory::used() {
  if (pieces_.empty()) return 0;  // other threads open and close files meanwhile, which race detectors mind
  const auto open = OpenFiles();
  std::erase_if(pieces_, [&](const Piece& p) {
    return open.count({p.dev, p.ino}) == 0 &&
           std::none_of(mappings_.begin(), mappings_.end(), [&](const auto& m) { return m.second.ino == p.ino; });
  });
  size_t bytes = 0;
  for (const Piece& p : pieces_) bytes += p.bytes;
  return bytes;
}

}  // namespace shoal::cuda::emulated
