#include "tests/cluster/harness/driver.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace shoal::testing {
namespace {

class Driver {
 public:
  Driver(Engines& engines, const plan::MirrorLimits& limits, const std::vector<TestRequest>& requests,
         const DriverOptions& options)
      : engines_(engines), limits_(limits), mirror_(limits), options_(options), cohort_of_step_(1) {
    for (const TestRequest& request : requests) {
      State& s = states_.emplace_back();
      s.request = &request;
      s.start = request.prompt;
      s.start.insert(s.start.end(), request.generated.begin(), request.generated.end());
    }
    free_.resize(limits.blocks);
    std::iota(free_.begin(), free_.end(), 0);
    for (int i = limits.blocks - 1; i > 0; --i) std::swap(free_[i], free_[RandomBits(23, 0, i) % (i + 1)]);
    unanswered_.resize(options.cohorts);
  }

  absl::StatusOr<DriverResult> Run() {
    bool more = true;
    while (more) {
      more = false;
      for (int cohort = 0; cohort < options_.cohorts; ++cohort) {
        plan::StepPlan plan;
        if (!Build(cohort, &plan)) continue;
        more = true;
        while (unanswered_[cohort] >= options_.ahead) SHOAL_RETURN_IF_ERROR(Answer());
        plan.stamp = {.epoch = 1, .incarnation = 1, .step = ++step_};
        plan.cohort = cohort;
        plan.checksum = options_.checksum_every > 0 && step_ % options_.checksum_every == 0;
        if (options_.graphs) plan.bucket = plan::BucketOf(plan, limits_);
        bucketed_ += plan.bucket > 0 ? 1 : 0;
        SHOAL_RETURN_IF_ERROR(mirror_.Apply(plan, false));
        plan.mirror_digest = mirror_.digest();
        cohort_of_step_.push_back(cohort);
        ++unanswered_[cohort];
        engines_.Submit(plan);
      }
    }
    while (answered_ < step_) SHOAL_RETURN_IF_ERROR(Answer());
    DriverResult result;
    for (State& s : states_) {
      result.tokens.push_back(std::move(s.tokens));
      result.logprobs.push_back(std::move(s.logprobs));
      result.errors.push_back(s.error);
    }
    result.plans = static_cast<int>(step_);
    result.bucketed = bucketed_;
    return result;
  }

 private:
  struct State {
    const TestRequest* request;
    std::vector<int32_t> start;
    bool started = false, ended = false;
    int planned = 0;  // positions in plans so far
    int samples = 0;  // planned so far
    int blocks = 0;
    std::vector<int32_t> tokens;
    std::vector<plan::TokenLogprobs> logprobs;
    plan::RowError error = plan::RowError::kNone;
  };

  std::vector<int32_t> TakeBlocks(int tokens, int* have) {
    std::vector<int32_t> taken;
    for (; *have * limits_.block_size < tokens; ++*have) {
      SHOAL_CHECK(!free_.empty());
      taken.push_back(free_.back());
      free_.pop_back();
    }
    return taken;
  }

  // Ends what is complete, starts and continues the rest of the cohort. False: nothing is left to do.
  bool Build(int cohort, plan::StepPlan* plan) {
    int room = limits_.max_tokens, outputs = limits_.max_sequences;
    for (size_t i = cohort; i < states_.size() && room > 0 && outputs > 0; i += options_.cohorts) {
      State& s = states_[i];
      const int known = static_cast<int>(s.start.size());
      const plan::SequenceId id = i + 1;
      if (s.samples == s.request->new_tokens) {
        if (!s.ended) plan->ends.push_back(id);
        s.ended = true;
        continue;
      }
      const bool literal = s.planned < known;
      const bool tells = literal && s.request->sampling.prompt_logprobs >= 0;
      int count = literal ? std::min({known - s.planned, options_.chunk, room}) : 1;
      if (tells) count = std::min(count, outputs);
      const std::vector<int32_t> blocks = TakeBlocks(s.planned + count, &s.blocks);
      if (!s.started) {
        plan->starts.push_back({.id = id,
                                .tokens = s.start,
                                .prompt_tokens = static_cast<int32_t>(s.request->prompt.size()),
                                .sampling = s.request->sampling,
                                .blocks = blocks});
      } else if (!blocks.empty()) {
        plan->blocks_added.push_back({id, blocks});
      }
      s.started = true;
      const bool samples = s.planned + count >= known;
      plan->rows.push_back({.id = id,
                            .source = literal ? plan::TokenSource::kLiteral : plan::TokenSource::kLastSample,
                            .position = s.planned,
                            .count = count,
                            .output = tells     ? (samples ? plan::RowOutput::kBoth : plan::RowOutput::kLogprobs)
                                      : samples ? plan::RowOutput::kSample
                                                : plan::RowOutput::kNone});
      outputs -= plan::OutputCount(plan->rows.back());
      s.planned += count;
      s.samples += samples;
      room -= count;
    }
    return !plan->rows.empty();
  }

  absl::Status Answer() {
    SHOAL_ASSIGN_OR_RETURN(const plan::StepResult result, engines_.NextResult());
    if (!result.error.empty()) return absl::InternalError(result.error);
    if (result.stamp.step != ++answered_) return absl::InternalError(absl::StrCat("answer ", result.stamp.step));
    --unanswered_[cohort_of_step_[answered_]];
    for (const plan::RowResult& row : result.rows) {
      State& s = states_[row.id - 1];
      s.tokens.insert(s.tokens.end(), row.tokens.begin(), row.tokens.end());
      s.logprobs.insert(s.logprobs.end(), row.logprobs.begin(), row.logprobs.end());
      if (row.error != plan::RowError::kNone) s.error = row.error;
      for (const int32_t token : row.tokens) mirror_.RecordSample(row.id, token);
    }
    return absl::OkStatus();
  }

  Engines& engines_;
  const plan::MirrorLimits limits_;
  plan::PlanMirror mirror_;
  const DriverOptions options_;
  std::vector<State> states_;
  std::vector<int32_t> free_;
  std::vector<int> unanswered_;      // per cohort
  std::vector<int> cohort_of_step_;  // [step]
  uint64_t step_ = 0, answered_ = 0;
  int bucketed_ = 0;
};

}  // namespace

absl::StatusOr<DriverResult> RunRequests(Engines& engines, const plan::MirrorLimits& limits,
                                         const std::vector<TestRequest>& requests, const DriverOptions& options) {
  return Driver(engines, limits, requests, options).Run();
}

absl::StatusOr<DriverResult> RunAlone(RankSet& ranks, const std::vector<TestRequest>& requests,
                                      const DriverOptions& options) {
  Engines engines(ranks);
  auto result = RunRequests(engines, ranks.limits(), requests, options);
  for (const absl::Status& s : engines.Stop()) {
    if (!s.ok()) return s;
  }
  return result;
}

}  // namespace shoal::testing
