#include "coordinator/journal/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::journal {
namespace {

constexpr std::string_view kMagic = "shoaljn1";
constexpr int64_t kMagicBytes = static_cast<int64_t>(kMagic.size());

absl::Status SystemError(const char* what, const std::string& path) {
  const int error = errno;
  return absl::UnavailableError(absl::StrCat("the journal cannot ", what, " ", path, ": ", std::strerror(error)));
}

// As much as there is, up to `size`.
std::string ReadSome(int fd, size_t size, int64_t at) {
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, bytes.data() + done, size - done, at + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

size_t Store::HashDigest::operator()(const Digest& digest) const {
  size_t hash;
  std::memcpy(&hash, digest.data(), sizeof hash);
  return hash;
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  std::error_code ec;
  const std::filesystem::path directory = options.directory;
  const bool made = std::filesystem::create_directories(directory, ec);
  if (made && !ec) std::filesystem::permissions(directory, std::filesystem::perms::owner_all, ec);
  if (ec) {
    return absl::UnavailableError(absl::StrCat("the journal cannot make ", options.directory, ": ", ec.message()));
  }
  if (options.sync == nullptr) options.sync = fdatasync;
  if (options.write == nullptr) options.write = pwrite;
  std::unique_ptr<Store> store(new Store(std::move(options)));
  SHOAL_RETURN_IF_ERROR(store->Lock());
  SHOAL_RETURN_IF_ERROR(store->Load());
  return store;
}

Store::~Store() {
  if (fd_ >= 0) close(fd_);
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::Status Store::Lock() {
  const std::string path = Path("lock");
  lock_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd_ < 0) return SystemError("open", path);
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return SystemError("lock", path);
  return absl::FailedPreconditionError(
      absl::StrCat("the state directory ", options_.directory, " is in use by another coordinator"));
}

// Reads all whole records; the rest is cut off, and what is live is written anew when anything else is there.
absl::Status Store::Load() {
  const std::string path = Path("journal");
  unlink(Path("journal.new").c_str());
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) return SystemError("open", path);
  struct stat facts;
  if (fstat(fd_, &facts) != 0) return SystemError("read", path);
  const std::string magic = ReadSome(fd_, kMagic.size(), 0);
  if (!kMagic.starts_with(magic)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a journal; move it away"));
  }
  int64_t at = kMagicBytes;
  while (magic.size() == kMagic.size()) {
    const auto head = DecodeHead(ReadSome(fd_, kRecordHeadBytes, at));
    if (!head.has_value()) break;
    const int64_t end = at + static_cast<int64_t>(kRecordHeadBytes + head->payload_bytes);
    if (end > facts.st_size) break;
    const std::string payload = ReadSome(fd_, head->payload_bytes, at + static_cast<int64_t>(kRecordHeadBytes));
    const auto record = DecodePayload(*head, payload);
    if (!record.has_value()) break;
    Apply(*record, at, static_cast<uint32_t>(end - at));
    at = end;
  }
  cut_bytes_ = std::max<int64_t>(0, facts.st_size - at);
  end_ = at;
  if (magic.size() < kMagic.size()) cut_bytes_ = 0;
  if (ftruncate(fd_, magic.size() < kMagic.size() ? 0 : end_) != 0) return SystemError("cut", path);
  if (magic.size() < kMagic.size() && !WriteAll(fd_, kMagic, 0)) return SystemError("write", path);

  const int64_t oldest = options_.now_s() - options_.ttl_s;
  for (const Digest& id : Unfinished()) {
    if (entries_.at(id).time_s <= oldest) Erase(id);
  }
  Expire();
  while (entries_.size() > options_.max_entries && EvictOldest()) continue;
  // Failing to is no harm: the file is whole, just longer than it needs to be.
  if (cut_bytes_ > 0 || live_bytes_ + kMagicBytes < end_) Rewrite().IgnoreError();
  dirty_ = true;
  return Sync();
}

void Store::Apply(const Record& record, int64_t at, uint32_t record_bytes) {
  Erase(record.id);
  if (record.type == RecordType::kDropped) return;
  Entry entry;
  entry.fingerprint = record.fingerprint;
  entry.finished = record.type == RecordType::kFinished;
  entry.order = next_order_++;
  entry.suspects = record.suspects;
  entry.time_s = record.time_s;
  entry.at = at;
  entry.record_bytes = record_bytes;
  entries_[record.id] = entry;
  live_bytes_ += record_bytes;
  if (entry.finished) finished_.emplace_back(record.id, entry.order);
}

void Store::Erase(const Digest& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  live_bytes_ -= found->second.record_bytes;
  entries_.erase(found);
}

bool Store::EvictOldest() {
  while (!finished_.empty()) {
    const auto [id, order] = finished_.front();
    finished_.pop_front();
    const auto found = entries_.find(id);
    if (found == entries_.end() || found->second.order != order) continue;
    Erase(id);
    return true;
  }
  return false;
}

void Store::Expire() {
  const int64_t oldest = options_.now_s() - options_.ttl_s;
  while (!finished_.empty()) {
    const auto [id, order] = finished_.front();
    const auto found = entries_.find(id);
    const bool present = found != entries_.end() && found->second.order == order;
    if (present && found->second.time_s > oldest) return;
    if (present) Erase(id);
    finished_.pop_front();
  }
}

// For one more entry with a record of this size; ResourceExhausted when what has not ended leaves none. When the file
// is full, so much goes that it is not full again soon.
absl::Status Store::MakeRoom(int64_t record_bytes) {
  const auto full = [] { return absl::ResourceExhaustedError("the journal is full of requests without an answer"); };
  if (kMagicBytes + record_bytes > options_.max_bytes) return full();
  Expire();
  while (entries_.size() >= options_.max_entries) {
    if (!EvictOldest()) return full();
  }
  if (end_ + record_bytes <= options_.max_bytes) return absl::OkStatus();
  while (kMagicBytes + live_bytes_ + record_bytes > options_.max_bytes / 2 && EvictOldest()) continue;
  if (kMagicBytes + live_bytes_ + record_bytes > options_.max_bytes) return full();
  return Rewrite();
}

bool Store::WriteAll(int fd, std::string_view bytes, int64_t at) const {
  while (!bytes.empty()) {
    const ssize_t n = options_.write(fd, bytes.data(), bytes.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
    at += n;
  }
  return true;
}

absl::Status Store::Append(const std::string& record, int64_t* at) {
  if (!WriteAll(fd_, record, end_)) {
    const absl::Status error = SystemError("write to", Path("journal"));
    if (ftruncate(fd_, end_) != 0) broken_ = true;
    return error;
  }
  *at = end_;
  end_ += static_cast<int64_t>(record.size());
  dirty_ = true;
  return absl::OkStatus();
}

Begun Store::Begin(const Digest& id, const Digest& fingerprint, std::string_view request) {
  using Outcome = Begun::Outcome;
  const auto failed = [](absl::Status error) { return Begun{Outcome::kFailed, {}, std::move(error)}; };
  Expire();
  if (const auto found = entries_.find(id); found != entries_.end()) {
    const Entry& entry = found->second;
    if (entry.fingerprint != fingerprint) return {Outcome::kMismatch, {}, {}};
    if (!entry.finished) return {Outcome::kRunning, {}, {}};
    absl::StatusOr<std::string> answer = ReadBytes(entry);
    if (!answer.ok()) return failed(answer.status());
    return {Outcome::kFinished, std::move(*answer), {}};
  }
  if (kBytesOffset - kRecordHeadBytes + request.size() > kMaxPayloadBytes) {
    return failed(absl::InvalidArgumentError("the request is too large for the journal"));
  }
  if (absl::Status mended = MendIfBroken(); !mended.ok()) return failed(std::move(mended));
  Record record{RecordType::kAccepted, id, fingerprint, options_.now_s(), 0, request};
  const std::string bytes = EncodeRecord(record);
  if (absl::Status room = MakeRoom(static_cast<int64_t>(bytes.size())); !room.ok()) return failed(std::move(room));
  int64_t at = 0;
  if (absl::Status written = Append(bytes, &at); !written.ok()) return failed(std::move(written));
  Apply(record, at, static_cast<uint32_t>(bytes.size()));
  return {Outcome::kAccepted, {}, {}};
}

absl::Status Store::Finish(const Digest& id, std::string_view answer) {
  const auto write = [&]() -> absl::Status {
    if (kBytesOffset - kRecordHeadBytes + answer.size() > kMaxPayloadBytes) {
      return absl::UnavailableError("the answer is too large for the journal");
    }
    SHOAL_RETURN_IF_ERROR(MendIfBroken());
    const auto found = entries_.find(id);  // mending leaves out what it cannot read
    if (found == entries_.end()) return absl::DataLossError("the request is not in the journal any more");
    SHOAL_CHECK(!found->second.finished);
    Record record{RecordType::kFinished, id, found->second.fingerprint, options_.now_s(), 0, answer};
    const std::string bytes = EncodeRecord(record);
    // What was let in may end, room or not; but it does its part to make some.
    const auto size = static_cast<int64_t>(bytes.size());
    if (end_ + size > options_.max_bytes) MakeRoom(size).IgnoreError();
    int64_t at = 0;
    SHOAL_RETURN_IF_ERROR(Append(bytes, &at));
    Apply(record, at, static_cast<uint32_t>(bytes.size()));
    return absl::OkStatus();
  };
  const absl::Status written = write();
  if (!written.ok()) Erase(id);
  return written;
}

void Store::Forget(const Digest& id) {
  if (!entries_.contains(id)) return;
  Erase(id);
  if (broken_) return;
  int64_t at = 0;
  Record record;
  record.id = id;
  Append(EncodeRecord(record), &at).IgnoreError();
}

absl::StatusOr<Again> Store::BeginAgain(const Digest& id, bool suspect) {
  if (suspect) SHOAL_RETURN_IF_ERROR(MendIfBroken());
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.finished) return absl::NotFoundError("no such request runs");
  const Entry& entry = found->second;
  Again again;
  SHOAL_ASSIGN_OR_RETURN(again.request, ReadBytes(entry));
  again.suspects = entry.suspects;
  if (!suspect) return again;
  again.suspects = std::min(again.suspects + 1, 255);
  Record record{RecordType::kAccepted, id, entry.fingerprint, entry.time_s, static_cast<uint8_t>(again.suspects),
                again.request};
  const std::string bytes = EncodeRecord(record);
  int64_t at = 0;
  SHOAL_RETURN_IF_ERROR(Append(bytes, &at));
  Apply(record, at, static_cast<uint32_t>(bytes.size()));
  return again;
}

absl::StatusOr<std::string> Store::ReadBytes(const Entry& entry) {
  std::string whole = ReadSome(fd_, entry.record_bytes, entry.at);
  const std::string_view view = whole;
  const auto head = DecodeHead(view.substr(0, kRecordHeadBytes));
  if (!head.has_value() || !DecodePayload(*head, view.substr(kRecordHeadBytes)).has_value()) {
    return absl::DataLossError(absl::StrCat(Path("journal"), " is damaged at byte ", entry.at));
  }
  return whole.substr(kBytesOffset);
}

absl::Status Store::Sync() {
  if (!dirty_) return absl::OkStatus();
  dirty_ = false;
  if (options_.sync(fd_) == 0) return absl::OkStatus();
  // The kernel may have dropped the pages that it could not write: nothing is known of them any more.
  broken_ = true;
  return SystemError("sync", Path("journal"));
}

absl::Status Store::MendIfBroken() {
  if (!broken_) return absl::OkStatus();
  return Rewrite();
}

// The live records into a new file, which takes the place of the old one. Unchanged when it fails.
absl::Status Store::Rewrite() {
  const std::string path = Path("journal.new");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return SystemError("write", path);
  const auto give_up = [&](const char* what) {
    const absl::Status error = SystemError(what, path);
    close(fd);
    unlink(path.c_str());
    return error;
  };
  std::vector<std::pair<uint64_t, Digest>> ordered;
  for (const auto& [id, entry] : entries_) ordered.emplace_back(entry.order, id);
  std::sort(ordered.begin(), ordered.end());
  std::vector<std::pair<Digest, int64_t>> moved;
  std::vector<Digest> damaged;
  int64_t end = kMagicBytes;
  if (!WriteAll(fd, kMagic, 0)) return give_up("write");
  for (const auto& [order, id] : ordered) {
    const Entry& entry = entries_.at(id);
    const std::string whole = ReadSome(fd_, entry.record_bytes, entry.at);
    const std::string_view view = whole;
    const auto head = DecodeHead(view.substr(0, kRecordHeadBytes));
    if (!head.has_value() || !DecodePayload(*head, view.substr(kRecordHeadBytes)).has_value()) {
      damaged.push_back(id);
      continue;
    }
    if (!WriteAll(fd, whole, end)) return give_up("write");
    moved.emplace_back(id, end);
    end += entry.record_bytes;
  }
  if (options_.sync(fd) != 0) return give_up("sync");
  if (rename(path.c_str(), Path("journal").c_str()) != 0) return give_up("rename");
  const int directory = open(options_.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    fsync(directory);  // without it an older file may be there after a power cut: whole, and with less in it
    close(directory);
  }
  for (const Digest& id : damaged) Erase(id);
  for (const auto& [id, at] : moved) entries_.at(id).at = at;
  close(fd_);
  fd_ = fd;
  end_ = end;
  broken_ = dirty_ = false;
  return absl::OkStatus();
}

std::vector<Digest> Store::Unfinished() const {
  std::vector<std::pair<uint64_t, Digest>> ordered;
  for (const auto& [id, entry] : entries_) {
    if (!entry.finished) ordered.emplace_back(entry.order, id);
  }
  std::sort(ordered.begin(), ordered.end());
  std::vector<Digest> ids;
  for (const auto& [order, id] : ordered) ids.push_back(id);
  return ids;
}

}  // namespace shoal::journal
