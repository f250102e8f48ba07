// The journal's file and its index. One thread at a time; every call may wait for the disk.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/journal/record.h"

namespace shoal::journal {

struct StoreOptions {
  std::string directory;            // made, for its owner only, when it is not there
  size_t max_entries = 10'000;      // with and without an answer
  int64_t max_bytes = 256LL << 20;  // of the file; answers to what was let in may exceed it
  int64_t ttl_s = 24 * 3600;        // of an entry, from its answer on, or from the start when it has none by then
  std::function<int64_t()> now_s;   // seconds since 1970
  std::function<int(int fd)> sync;  // as fdatasync; empty: that
  // As pwrite; empty: that. With `sync` it is all that changes what files hold, but for cutting and renaming them.
  std::function<ssize_t(int fd, const void* bytes, size_t size, int64_t at)> write;
};

// What beginning a key has found.
struct Begun {
  enum class Outcome : uint8_t {
    kAccepted,  // new; recorded
    kRunning,   // begun before, not ended
    kFinished,  // `answer`
    kMismatch,  // begun before with another fingerprint
    kFailed,    // `error`: ResourceExhausted when it is full of entries that have not ended; nothing is recorded
  };
  Outcome outcome = Outcome::kFailed;
  std::string answer;
  absl::Status error;
};

// A request of an earlier process.
struct Again {
  std::string request;
  int suspects = 0;  // crashes of this process that may have been its doing, without a peaceful end in between
};

class Store {
 public:
  // FailedPrecondition: another process has it, or the file is not a journal. Else what the system says.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  Begun Begin(const Digest& id, const Digest& fingerprint, std::string_view request);
  // Of an entry that runs. When it fails the entry is gone from the index (on disk it still runs).
  absl::Status Finish(const Digest& id, std::string_view answer);
  // Nothing when there is none.
  void Forget(const Digest& id);
  // An entry that runs, and that an earlier process began. `suspect`: that process crashed, and is not to do so for
  // ever because of one request: it is recorded, and the entry goes behind the others. NotFound, DataLoss, or of a
  // write.
  absl::StatusOr<Again> BeginAgain(const Digest& id, bool suspect);

  // Until then nothing that Begin and Finish said counts. When it fails, it never will: Undo each of them.
  absl::Status Sync();
  // Out of the index, after a failed Sync.
  void Undo(const Digest& id) { Erase(id); }

  // Entries without an answer, in the order in which they began.
  std::vector<Digest> Unfinished() const;
  size_t entries() const { return entries_.size(); }
  int64_t file_bytes() const { return end_; }
  int64_t cut_bytes() const { return cut_bytes_; }  // of a torn or damaged tail, at Open

 private:
  struct Entry {
    Digest fingerprint;
    bool finished = false;
    uint64_t order = 0;  // of its record
    uint8_t suspects = 0;
    int64_t time_s = 0;
    int64_t at = 0;  // of its record in the file
    uint32_t record_bytes = 0;
  };
  struct HashDigest {  // digests are random already
    size_t operator()(const Digest& digest) const;
  };

  explicit Store(StoreOptions options) : options_(std::move(options)) {}
  absl::Status Lock();
  absl::Status Load();
  void Apply(const Record& record, int64_t at, uint32_t record_bytes);
  absl::Status Append(const std::string& record, int64_t* at);
  bool WriteAll(int fd, std::string_view bytes, int64_t at) const;  // or false with errno
  absl::StatusOr<std::string> ReadBytes(const Entry& entry);
  void Erase(const Digest& id);
  bool EvictOldest();
  void Expire();
  absl::Status MakeRoom(int64_t record_bytes);
  absl::Status Rewrite();
  absl::Status MendIfBroken();
  std::string Path(const char* name) const { return options_.directory + "/" + name; }

  const StoreOptions options_;
  int lock_fd_ = -1, fd_ = -1;
  int64_t end_ = 0;         // of the file: where the next record goes
  int64_t live_bytes_ = 0;  // of the records that entries_ point to
  int64_t cut_bytes_ = 0;
  bool broken_ = false;  // what the file holds is not known: it is written anew before it is used again
  bool dirty_ = false;
  uint64_t next_order_ = 1;
  std::unordered_map<Digest, Entry, HashDigest> entries_;
  // Ended entries, oldest first, by (id, order); one whose order is another by now is passed over.
  std::deque<std::pair<Digest, uint64_t>> finished_;
};

}  // namespace shoal::journal
