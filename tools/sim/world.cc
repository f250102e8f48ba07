// Tested by: tests/sim/network_test.cc
#include "tools/sim/world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/rng.h"

namespace shoal::sim {

void World::At(TimeNs at, std::function<void()> what) { queue_.push({std::max(at, now_), ++order_, std::move(what)}); }

bool World::Step(TimeNs limit) {
  if (queue_.empty() || queue_.top().at > limit) return false;
  const auto what = std::move(const_cast<Item&>(queue_.top()).what);  // it leaves the queue in the next line
  now_ = std::max(now_, queue_.top().at);
  queue_.pop();
  what();
  return true;
}

void World::Skip(TimeNs to) { now_ = std::max(now_, to); }

uint64_t World::Draw() { return RandomBits(seed_, 1, ++draws_); }

DurationNs World::Between(DurationNs low, DurationNs high) {
  if (high <= low) return low;
  return low + static_cast<DurationNs>(Draw() % static_cast<uint64_t>(high - low));
}

void World::Problem(const std::string& text) {
  Trace(absl::StrCat("PROBLEM ", text));
  problems_.push_back(absl::StrFormat("%.6f s: %s", static_cast<double>(now_) / kSecond, text));
}

void World::Trace(const std::string& text) {
  if (trace_ != nullptr) trace_(absl::StrFormat("%12.6f  %s", static_cast<double>(now_) / kSecond, text));
}

}  // namespace shoal::sim
