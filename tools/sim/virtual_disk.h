// Real files in a directory of their own, under a store: it counts writes and syncs, and the process may end at any of
// them. What the disk holds then is what the next process finds. Renames are on disk at once. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/journal/store.h"

namespace shoal::sim {

// Of what was written and not synced, what an end leaves: a kill all of it, a power cut some or nothing.
enum class Left : uint8_t { kAll, kPart, kNothing };
inline constexpr int kLefts = 3;

class VirtualDisk {
 public:
  VirtualDisk();
  ~VirtualDisk();
  VirtualDisk(const VirtualDisk&) = delete;
  VirtualDisk& operator=(const VirtualDisk&) = delete;

  // For a store on this disk; they refer to it.
  journal::StoreOptions Options();

  uint64_t operations() const { return operations_; }  // writes and syncs, so far
  // The process ends at the operation of this number; a torn write is a part. Every later one fails. 0: at none.
  void EndAt(uint64_t operation, Left left);
  void End(Left left);  // now
  bool ended() const { return ended_; }
  void LimitBytes(int64_t bytes) { max_bytes_ = bytes; }  // of the file; what is live has to fit half of it
  size_t files() const { return synced_.size(); }         // that were synced, since the start
  void IgnoreSyncs() { ignores_syncs_ = true; }           // as a disk that lies; for tests of the simulator
  // Once nobody has the files open: they are as the end left them, and a new process may come.
  void Restart();

 private:
  // False: the process has ended.
  bool Lives(bool* last);
  ssize_t Write(int fd, const void* bytes, size_t size, int64_t at);
  int Sync(int fd);
  std::string Path(std::string_view name) const { return directory_ + "/" + std::string(name); }

  std::string directory_;
  int64_t max_bytes_ = 0;  // 0: as many as it takes
  uint64_t operations_ = 0, end_at_ = 0;
  Left left_ = Left::kAll;
  bool ended_ = false, ignores_syncs_ = false;
  std::map<uint64_t, int64_t> synced_;                        // bytes, by inode
  std::vector<std::pair<std::string, std::string>> remains_;  // name, bytes
};

}  // namespace shoal::sim
