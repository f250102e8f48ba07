// The canary: a tiny fixed prompt that runs through all ranks before a group counts as ready, and while it is idle.
// What it answered first, and twice in a row, is what it has to answer ever after, also under later coordinators. This
// decides when it runs and judges the answers; serving runs it. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/plan/plan_check.h"

namespace shoal::core {

struct CanaryAnswer {
  std::vector<int32_t> tokens;
  bool finite = true;  // false: a row of logits was not
};

// What it has to answer. `key`: all that this depends on, see CanaryWatch::Key.
struct KnownCanary {
  std::string key;
  std::vector<int32_t> tokens;
  bool operator==(const KnownCanary&) const = default;
};
// Layouts and numerics that one cluster sees. Agents name them: more are not remembered, nor longer ones.
inline constexpr size_t kMaxKnownCanaries = 64, kMaxCanaryKeyBytes = 1024;

// So many failures in a row, of canaries or of plans of clients, and nobody is served before it has passed.
inline constexpr int32_t kMaxCanaryFailures = 3;
// So many, and the agent of the rank that is wrong goes behind others: while there is an attempt left to be made with
// them, and nobody has been turned away.
inline constexpr int32_t kCanaryFailuresElsewhere = kMaxCanaryFailures - 1;

class CanaryWatch {
 public:
  // `interval` between two while idle; 0: there is none. `known`: what former coordinators learned.
  explicit CanaryWatch(DurationNs interval, const std::vector<KnownCanary>& known = {});

  static constexpr int32_t kTokens = 4;  // that it generates
  // Its prompt; empty when there is no room for one.
  static std::vector<int32_t> Prompt(const plan::MirrorLimits& limits);
  // Of what the answer depends on: the numbers, the model's revision, what is asked.
  static std::string Key(const std::string& numerics_id, const std::string& revision,
                         const std::vector<int32_t>& prompt);

  void GroupReady(TimeNs now);       // a new group has to prove itself
  void Busy(TimeNs now);             // clients' requests run: the next one an interval later
  void NoRoom() { passed_ = true; }  // the group cannot hold it
  bool Due(TimeNs now) const { return interval_ > 0 && now >= next_; }

  // Empty: it passed, or it is the first answer for this key: then it is due again at once, to answer the same. Else
  // what is wrong, worded for the log.
  std::string Judge(const std::string& key, const CanaryAnswer& answer, TimeNs now);
  // What has become known, once: to be kept for later coordinators.
  std::optional<KnownCanary> TakeLearned() { return std::exchange(learned_, std::nullopt); }
  // It did not come to an answer: `why` showed before.
  void Failed(const std::string& why);
  // A plan of clients showed that ranks compute wrongly: `why`. It has to pass before anything else runs. That it
  // passes does not put that right: a plan of clients has to agree, Agreed().
  void Distrust(const std::string& why);
  void Agreed() { mismatches_in_row_ = 0; }
  // A client's row was no number, by its prompt or by the ranks: it shall tell which, before anything else runs. Once
  // in an interval: clients must not be able to hold up each other.
  void Suspect(TimeNs now);
  // Nothing else may run before it has passed.
  bool first() const { return distrusted_; }
  // It has passed since the group became ready, or there is none.
  bool passed() const { return passed_ || interval_ == 0; }

  // In a row, of itself or of plans of clients, whichever are more.
  int32_t failures_in_row() const { return std::max(failures_in_row_, mismatches_in_row_); }
  // Too many: nobody is served before it has passed; without one, before there is another group.
  bool gives_up() const { return gives_up_; }
  std::string Summary() const;  // how many, and the last one
  uint64_t passes() const { return passes_; }
  uint64_t failures() const { return failures_; }

 private:
  void Learn(KnownCanary known);

  const DurationNs interval_;
  TimeNs next_ = 0;
  bool passed_ = false, distrusted_ = false;
  bool gives_up_ = false;
  TimeNs suspect_after_ = 0;
  int32_t failures_in_row_ = 0, mismatches_in_row_ = 0;
  std::string last_failure_;
  uint64_t passes_ = 0, failures_ = 0;
  std::map<std::string, std::vector<int32_t>> known_;  // by key
  std::set<std::string> inherited_;                    // of them, what was given at the start
  std::optional<KnownCanary> once_;                    // answered once, and not known yet
  std::optional<KnownCanary> learned_;
};

}  // namespace shoal::core
