#include "coordinator/server/canary_file.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "coordinator/journal/record.h"

namespace shoal::server {
namespace {

// The first line; then one line for each: CRC32C of the rest, tokens, key.
constexpr std::string_view kMagic = "shoal canaries 1";

std::string Checksum(const std::string& text) {
  return absl::StrCat(absl::Hex(journal::Crc32c(text), absl::kZeroPad8));
}

std::string ToLine(const core::KnownCanary& known) {
  const std::string text = absl::StrCat(absl::StrJoin(known.tokens, ","), " ", known.key);
  return absl::StrCat(Checksum(text), " ", text, "\n");
}

bool FromLine(const std::string& line, core::KnownCanary* known) {
  const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 2));
  if (parts.size() != 3 || parts[2].empty() || parts[2].size() > core::kMaxCanaryKeyBytes) return false;
  if (parts[0] != Checksum(absl::StrCat(parts[1], " ", parts[2]))) return false;
  known->key = parts[2];
  const std::vector<std::string> tokens = absl::StrSplit(parts[1], ',');
  for (const std::string& text : tokens) {
    if (!absl::SimpleAtoi(text, &known->tokens.emplace_back())) return false;
  }
  return known->tokens.size() <= core::CanaryWatch::kTokens;
}

absl::Status WriteAndSync(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "cannot write");
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
  }
  return ::fdatasync(fd) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, "cannot sync");
}

}  // namespace

CanaryFile::CanaryFile(std::string directory)
    : directory_(std::move(directory)), path_(absl::StrCat(directory_, "/canaries")) {
  if (directory_.empty()) return;
  absl::StatusOr<std::vector<core::KnownCanary>> read = Read();
  if (!read.ok()) {
    spdlog::warn("{} is ignored, canaries are learned anew: {}", path_, read.status().ToString());
    return;
  }
  if (!read->empty()) spdlog::info("canaries are compared with {} known answers of {}", read->size(), path_);
  MutexLock lock(mutex_);
  known_ = *std::move(read);
}

std::vector<core::KnownCanary> CanaryFile::Known() const {
  MutexLock lock(mutex_);
  return known_;
}

void CanaryFile::Learn(core::KnownCanary known) {
  if (directory_.empty() || known.key.find('\n') != std::string::npos) return;
  MutexLock lock(mutex_);
  std::erase_if(known_, [&](const core::KnownCanary& k) { return k.key == known.key; });
  if (known_.size() >= kKept) known_.erase(known_.begin());
  known_.push_back(std::move(known));
  changed_ = true;
}

void CanaryFile::Flush() {
  std::vector<core::KnownCanary> known;
  {
    MutexLock lock(mutex_);
    if (!std::exchange(changed_, false)) return;
    known = known_;
  }
  const absl::Status written = Write(known);
  if (!written.ok()) spdlog::warn("{}: {}: a later coordinator learns canaries anew", path_, written.ToString());
}

absl::StatusOr<std::vector<core::KnownCanary>> CanaryFile::Read() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return std::vector<core::KnownCanary>();
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot open");
  std::string text(kMaxBytes + 1, '\0');
  size_t size = 0;
  ssize_t n = 1;
  while (n != 0 && size < text.size()) {
    n = ::read(fd, text.data() + size, text.size() - size);
    if (n < 0 && errno != EINTR) break;
    if (n > 0) size += static_cast<size_t>(n);
  }
  const int error = n < 0 ? errno : 0;
  ::close(fd);
  if (error != 0) return absl::ErrnoToStatus(error, "cannot read");
  text.resize(size);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (size > kMaxBytes || lines.front() != kMagic || !lines.back().empty() || lines.size() - 2 > kKept) {
    return absl::DataLossError("it is not a file of known answers, or not whole");
  }
  std::vector<core::KnownCanary> known(lines.size() - 2);
  for (size_t i = 0; i < known.size(); ++i) {
    if (!FromLine(lines[i + 1], &known[i])) return absl::DataLossError(absl::StrCat("line ", i + 2, " is damaged"));
  }
  return known;
}

absl::Status CanaryFile::Write(const std::vector<core::KnownCanary>& known) const {
  std::string text = absl::StrCat(std::string(kMagic), "\n");
  for (const core::KnownCanary& k : known) text += ToLine(k);
  const std::string unfinished = path_ + ".new";
  const int fd = ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot create");
  const absl::Status written = WriteAndSync(fd, text);
  ::close(fd);
  if (!written.ok()) return written;
  if (::rename(unfinished.c_str(), path_.c_str()) != 0) return absl::ErrnoToStatus(errno, "cannot rename");
  const int directory = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);  // without it the file before may be there after a power cut: whole, and with less in it
    ::close(directory);
  }
  return absl::OkStatus();
}

}  // namespace shoal::server
