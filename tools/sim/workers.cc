#include "tools/sim/workers.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shoal::sim {
namespace {

// What a worker writes: "begin SEED", then lines of "problem TEXT", then "end SEED HASH EVENTS REQUESTS ANSWERED
// FAULT...".
std::string Encode(const RunResult& r) {
  std::string text;
  for (std::string problem : r.problems) {
    std::replace(problem.begin(), problem.end(), '\n', ' ');
    absl::StrAppend(&text, "problem ", problem, "\n");
  }
  absl::StrAppend(&text, "end ", r.seed, " ", r.hash, " ", r.events, " ", r.requests, " ", r.answered);
  for (const int count : r.faults) absl::StrAppend(&text, " ", count);
  return text + "\n";
}

void WriteAll(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) ::_exit(1);  // nobody reads any more
    done += static_cast<size_t>(n);
  }
}

// A process, and what it has said.
struct Worker {
  pid_t pid = -1;
  int fd = -1;
  uint64_t next = 0;  // the first seed of the process
  std::string unread;
  RunResult current;
  bool running = false;
};

class Pool {
 public:
  Pool(const SeedRange& range, int jobs, uint64_t twice_every, const std::function<RunResult(uint64_t)>& body,
       const std::function<void(const RunResult&)>& done)
      : range_(range), jobs_(static_cast<uint64_t>(jobs)), twice_every_(twice_every), body_(body), done_(done) {}

  bool Run() {
    workers_.resize(jobs_);
    for (uint64_t i = 0; i < jobs_; ++i) {
      workers_[i].next = range_.from + i;
      if (workers_[i].next <= range_.to && !Start(workers_[i])) return false;
    }
    while (true) {
      std::vector<pollfd> fds;
      std::vector<Worker*> of;
      for (Worker& w : workers_) {
        if (w.fd < 0) continue;
        fds.push_back({w.fd, POLLIN, 0});
        of.push_back(&w);
      }
      if (fds.empty()) return true;
      if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return false;
      for (size_t i = 0; i < fds.size(); ++i) {
        if (fds[i].revents != 0 && !Hear(*of[i])) return false;
      }
    }
  }

 private:
  bool Start(Worker& w) {
    int ends[2];
    if (::pipe(ends) != 0) return false;
    std::fflush(stdout);
    std::fflush(stderr);
    const pid_t pid = ::fork();
    if (pid < 0) return false;
    if (pid == 0) {
      ::close(ends[0]);
      Work(ends[1], w.next);
    }
    ::close(ends[1]);
    w.pid = pid;
    w.fd = ends[0];
    w.unread.clear();
    w.running = false;
    return true;
  }

  [[noreturn]] void Work(int fd, uint64_t from) {
    for (uint64_t seed = from; seed <= range_.to; seed += jobs_) {
      WriteAll(fd, absl::StrCat("begin ", seed, "\n"));
      RunResult result = body_(seed);
      if (twice_every_ > 0 && seed % twice_every_ == 0 && body_(seed).hash != result.hash) {
        result.problems.push_back("the same seed gave another run");
      }
      WriteAll(fd, Encode(result));
    }
    ::_exit(0);
  }

  // False: it cannot be replaced.
  bool Hear(Worker& w) {
    char buffer[4096];
    const ssize_t n = ::read(w.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) return true;
    if (n > 0) {
      w.unread.append(buffer, static_cast<size_t>(n));
      for (size_t end; (end = w.unread.find('\n')) != std::string::npos;) {
        Line(w, w.unread.substr(0, end));
        w.unread.erase(0, end + 1);
      }
      return true;
    }
    ::close(w.fd);
    w.fd = -1;
    int status = 0;
    while (::waitpid(w.pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!w.running) return true;
    w.current.problems.push_back(WIFSIGNALED(status) ? absl::StrCat("aborted by signal ", WTERMSIG(status))
                                                     : absl::StrCat("exited with ", WEXITSTATUS(status)));
    done_(w.current);
    w.next = w.current.seed + jobs_;
    return w.next > range_.to || Start(w);
  }

  void Line(Worker& w, const std::string& line) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "problem") w.current.problems.push_back(line.substr(8));
    if (words[0] == "begin" && words.size() == 2) {
      w.current = RunResult{};
      w.running = absl::SimpleAtoi(words[1], &w.current.seed);
    }
    if (words[0] != "end" || words.size() != 6 + kFaultKinds) return;
    w.running = false;
    bool good = absl::SimpleAtoi(words[2], &w.current.hash) && absl::SimpleAtoi(words[3], &w.current.events) &&
                absl::SimpleAtoi(words[4], &w.current.requests) && absl::SimpleAtoi(words[5], &w.current.answered);
    for (int k = 0; k < kFaultKinds; ++k) good = absl::SimpleAtoi(words[6 + k], &w.current.faults[k]) && good;
    if (!good) w.current.problems.push_back("its result could not be read");
    done_(w.current);
  }

  const SeedRange range_;
  const uint64_t jobs_, twice_every_;
  const std::function<RunResult(uint64_t)>& body_;
  const std::function<void(const RunResult&)>& done_;
  std::vector<Worker> workers_;
};

}  // namespace

bool RunSeeds(const SeedRange& range, int jobs, uint64_t twice_every, const std::function<RunResult(uint64_t)>& body,
              const std::function<void(const RunResult&)>& done) {
  return Pool(range, std::max(1, jobs), twice_every, body, done).Run();
}

std::string FailureLine(const RunResult& r) {
  return absl::StrCat("FAILED --seed ", r.seed, " --trace: ", r.problems.size(),
                      " problems, first: ", r.problems.empty() ? "" : r.problems[0]);
}

}  // namespace shoal::sim
