// Tested by: tests/sim/keyed_test.cc
#include "tools/sim/virtual_disk.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "common/base/check.h"

namespace shoal::sim {
namespace {

constexpr int64_t kNow = 1'700'000'000;  // seconds since 1970: nothing gets old here

}  // namespace

VirtualDisk::VirtualDisk() {
  directory_ = (std::filesystem::temp_directory_path() / "shoal_sim.XXXXXX").string();
  SHOAL_CHECK(mkdtemp(directory_.data()) != nullptr);
}

VirtualDisk::~VirtualDisk() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

journal::StoreOptions VirtualDisk::Options() {
  journal::StoreOptions options;
  options.directory = directory_;
  if (max_bytes_ > 0) options.max_bytes = max_bytes_;
  options.now_s = [] { return kNow; };
  options.sync = [this](int fd) { return Sync(fd); };
  options.write = [this](int fd, const void* bytes, size_t size, int64_t at) { return Write(fd, bytes, size, at); };
  return options;
}

void VirtualDisk::EndAt(uint64_t operation, Left left) {
  end_at_ = operation;
  left_ = left;
}

bool VirtualDisk::Lives(bool* last) {
  if (ended_) {
    errno = EIO;
    return false;
  }
  *last = ++operations_ == end_at_;
  return true;
}

ssize_t VirtualDisk::Write(int fd, const void* bytes, size_t size, int64_t at) {
  bool last = false;
  if (!Lives(&last)) return -1;
  const ssize_t done = pwrite(fd, bytes, size, at);
  if (!last) return done;
  End(left_);
  errno = EIO;
  return -1;
}

int VirtualDisk::Sync(int fd) {
  bool last = false;
  if (!Lives(&last)) return -1;
  if (last && left_ != Left::kAll) {
    End(left_);
    errno = EIO;
    return -1;
  }
  struct stat facts;
  SHOAL_CHECK(fstat(fd, &facts) == 0);
  if (!ignores_syncs_) synced_[facts.st_ino] = facts.st_size;
  if (!last) return 0;
  End(left_);
  errno = EIO;
  return -1;
}

void VirtualDisk::End(Left left) {
  if (std::exchange(ended_, true)) return;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    struct stat facts;
    SHOAL_CHECK(stat(entry.path().c_str(), &facts) == 0);
    const int64_t synced = std::min<int64_t>(facts.st_size, synced_[facts.st_ino]);
    const int64_t more = facts.st_size - synced;
    const int64_t keep = synced + (left == Left::kAll ? more : left == Left::kPart ? more / 2 : 0);
    std::ifstream file(entry.path(), std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    remains_.emplace_back(entry.path().filename().string(), bytes.substr(0, static_cast<size_t>(keep)));
  }
}

void VirtualDisk::Restart() {
  SHOAL_CHECK(ended_);
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) std::filesystem::remove(entry.path());
  synced_.clear();
  for (const auto& [name, bytes] : std::exchange(remains_, {})) {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    struct stat facts;
    SHOAL_CHECK(stat(Path(name).c_str(), &facts) == 0);
    synced_[facts.st_ino] = facts.st_size;
  }
  ended_ = false;
  end_at_ = 0;
}

}  // namespace shoal::sim
