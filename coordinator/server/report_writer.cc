#include "coordinator/server/report_writer.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "coordinator/server/stall_report.h"

namespace shoal::server {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "stall-", kSuffix = ".json", kUnfinished = ".json.tmp";

// A new file that only this user may read.
absl::Status WriteNew(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (::close(fd) != 0 && error == 0) error = errno;
  return error == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat("cannot write ", path));
}

std::string Blamed(const core::Culprit& culprit) {
  const std::string what(core::DetectionName(culprit.what));
  if (culprit.rank >= 0) return absl::StrCat("rank ", culprit.rank, ", ", what);
  if (!culprit.agent.empty()) return absl::StrCat("agent ", culprit.agent, ", ", what);
  return what;
}

}  // namespace

ReportWriter::ReportWriter(std::string directory) : directory_(std::move(directory)), thread_([this] { Run(); }) {}

ReportWriter::~ReportWriter() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void ReportWriter::Post(std::shared_ptr<const core::StallReport> report) {
  MutexLock lock(mutex_);
  if (queue_.size() >= kQueued) {
    spdlog::warn("a stall report is dropped: {} wait for the disk already", queue_.size());
    return;
  }
  queue_.push_back(std::move(report));
  changed_.NotifyAll();
}

void ReportWriter::Run() {
  while (true) {
    std::shared_ptr<const core::StallReport> report;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stop_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      report = std::move(queue_.front());
      queue_.pop_front();
    }
    std::string where = "not wanted";
    if (!directory_.empty()) {
      const absl::StatusOr<std::string> path = Write(*report);
      where = path.ok() ? *path : absl::StrCat("could not be written: ", path.status().message());
    }
    spdlog::warn("to blame: {}: {}; next: {}; report: {}", Blamed(report->culprit), report->reason, report->next,
                 where);
  }
}

absl::StatusOr<std::string> ReportWriter::Write(const core::StallReport& report) {
  std::error_code error;
  if (fs::create_directories(directory_, error)) {
    fs::permissions(directory_, fs::perms::owner_all, error);
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  // Names sort by time. Processes and writers may share a directory.
  std::string name, finished;
  do {
    name = absl::StrCat(directory_, "/", std::string(kPrefix), Timestamp(unix_ms), "-", ::getpid(), "-", ++written_);
    finished = absl::StrCat(name, std::string(kSuffix));
  } while (::access(finished.c_str(), F_OK) == 0);
  const std::string unfinished = absl::StrCat(name, std::string(kUnfinished));
  absl::Status written = WriteNew(unfinished, ReportJson(report, unix_ms) + "\n");
  if (written.ok() && ::rename(unfinished.c_str(), finished.c_str()) != 0) {
    written = absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", unfinished));
  }
  if (!written.ok()) {
    ::unlink(unfinished.c_str());
    return written;
  }
  Prune();
  return finished;
}

// Also what a process that died had begun.
void ReportWriter::Prune() const {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kPrefix) && (name.ends_with(kSuffix) || name.ends_with(kUnfinished))) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  for (size_t i = 0; i + kKept < names.size(); ++i) ::unlink(absl::StrCat(directory_, "/", names[i]).c_str());
}

}  // namespace shoal::server
