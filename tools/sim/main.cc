// Tested by: tests/sim/shoal_sim_test.py
// shoal_sim: many simulated runs, or one of them with its timeline.
#include <array>
#include <cstdio>
#include <ctime>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tools/sim/workers.h"

namespace {

using shoal::sim::FaultKind;
using shoal::sim::FaultName;
using shoal::sim::kFaultKinds;
using shoal::sim::RunResult;
using shoal::sim::RunSeed;

struct Options {
  std::string seeds, out;
  uint64_t seed = 0, twice_every = 0;
  int jobs = 1;
  bool trace = false;
};

double Seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

int OneSeed(const Options& o) {
  shoal::sim::RunOptions options;
  if (o.trace) options.trace = [](const std::string& line) { std::printf("%s\n", line.c_str()); };
  const RunResult result = RunSeed(o.seed, options);
  for (const std::string& problem : result.problems) std::printf("FAILED %s\n", problem.c_str());
  std::printf("seed %llu: %d requests, %llu events, hash %016llx, %zu problems\n",
              static_cast<unsigned long long>(o.seed), result.requests, static_cast<unsigned long long>(result.events),
              static_cast<unsigned long long>(result.hash), result.problems.size());
  return result.problems.empty() ? 0 : 1;
}

// The sums of a range, as one line that tools/dev/sim adds up: key=value, faults by kind.
struct Sums {
  uint64_t runs = 0, events = 0, requests = 0, answered = 0, failures = 0;
  std::array<uint64_t, kFaultKinds> faults{};

  void Add(const RunResult& r) {
    ++runs;
    events += r.events;
    requests += static_cast<uint64_t>(r.requests);
    answered += static_cast<uint64_t>(r.answered);
    failures += r.problems.empty() ? 0 : 1;
    for (int k = 0; k < kFaultKinds; ++k) faults[k] += static_cast<uint64_t>(r.faults[k]);
  }
  std::string Line(double seconds) const {
    std::string text = absl::StrCat("runs=", runs, ";requests=", requests, ";answered=", answered, ";events=", events,
                                    ";failures=", failures, ";seconds=", seconds);
    for (int k = 0; k < kFaultKinds; ++k) {
      absl::StrAppend(&text, ";", std::string(FaultName(static_cast<FaultKind>(k))), "=", faults[k]);
    }
    return text;
  }
};

bool ParseRange(const std::string& text, shoal::sim::SeedRange* range) {
  const size_t dots = text.find("..");
  if (dots == std::string::npos) return false;
  return absl::SimpleAtoi(text.substr(0, dots), &range->from) && absl::SimpleAtoi(text.substr(dots + 2), &range->to) &&
         range->from <= range->to;
}

int ManySeeds(const Options& o) {
  shoal::sim::SeedRange range;
  if (!ParseRange(o.seeds, &range)) {
    std::fprintf(stderr, "--seeds wants FROM..TO, both included: 1..2000\n");
    return 2;
  }
  std::FILE* out = nullptr;
  if (!o.out.empty() && (out = std::fopen(o.out.c_str(), "a")) == nullptr) {
    std::fprintf(stderr, "cannot write to %s\n", o.out.c_str());
    return 2;
  }
  Sums sums;
  const double begun = Seconds();
  const auto say = [&](const std::string& line) {
    std::printf("%s\n", line.c_str());
    if (out != nullptr) std::fprintf(out, "%s\n", line.c_str());
  };
  const bool ran = shoal::sim::RunSeeds(
      range, o.jobs, o.twice_every, [](uint64_t seed) { return RunSeed(seed); },
      [&](const RunResult& r) {
        sums.Add(r);
        if (!r.problems.empty()) say(shoal::sim::FailureLine(r));
      });
  const double seconds = Seconds() - begun;
  say(sums.Line(seconds));
  std::printf("figure: simulation: %llu seeds, %.0f runs/s, %llu requests, %llu failures\n",
              static_cast<unsigned long long>(sums.runs), static_cast<double>(sums.runs) / seconds,
              static_cast<unsigned long long>(sums.requests), static_cast<unsigned long long>(sums.failures));
  if (out != nullptr) std::fclose(out);
  if (!ran) std::fprintf(stderr, "cannot start processes\n");
  return ran && sums.failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("simulated clusters in virtual time: everything that a seed decides");
  auto* many = app.add_option("--seeds", o.seeds, "a range of seeds, FROM..TO");
  auto* one = app.add_option("--seed", o.seed, "one seed");
  one->excludes(many);
  app.add_flag("--trace", o.trace, "print the timeline of that one")->needs(one);
  app.add_option("--jobs", o.jobs, "processes")->check(CLI::Range(1, 256));
  app.add_option("--twice-every", o.twice_every, "run every Nth seed twice and compare");
  app.add_option("--out", o.out, "append failures and sums to this file");
  CLI11_PARSE(app, argc, argv);
  if (one->count() > 0) return OneSeed(o);
  if (many->count() > 0) return ManySeeds(o);
  std::fprintf(stderr, "--seed or --seeds, please; --help says more\n");
  return 2;
}
