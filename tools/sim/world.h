// Virtual time and the one source of chance of a run: what happens is a queue of functions ordered by time, then by the
// order in which they were asked for. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include "common/base/clock.h"

namespace shoal::sim {

class World {
 public:
  explicit World(uint64_t seed) : seed_(seed) {}

  TimeNs now() const { return now_; }
  void At(TimeNs at, std::function<void()> what);
  void After(DurationNs wait, std::function<void()> what) { At(now_ + wait, std::move(what)); }

  // Does what comes next, unless that is after `limit`: then nothing, and false.
  bool Step(TimeNs limit);
  // Time passes with nothing happening; what was due meanwhile comes late.
  void Skip(TimeNs to);

  uint64_t Draw();
  DurationNs Between(DurationNs low, DurationNs high);  // [low, high)
  bool Chance(int percent) { return Draw() % 100 < static_cast<uint64_t>(percent); }

  // What no run may show.
  void Problem(const std::string& text);
  const std::vector<std::string>& problems() const { return problems_; }

  // One line of the timeline; dropped unless somebody wants it.
  void Trace(const std::string& text);
  bool tracing() const { return trace_ != nullptr; }
  void TraceTo(std::function<void(const std::string&)> trace) { trace_ = std::move(trace); }

 private:
  struct Item {
    TimeNs at;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Item& o) const { return at != o.at ? at > o.at : order > o.order; }
  };

  const uint64_t seed_;
  uint64_t draws_ = 0, order_ = 0;
  TimeNs now_ = 0;
  std::priority_queue<Item> queue_;
  std::vector<std::string> problems_;
  std::function<void(const std::string&)> trace_;
};

}  // namespace shoal::sim
