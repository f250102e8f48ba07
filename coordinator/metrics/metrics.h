// What /metrics shows: vLLM's core names (its dashboards and autoscalers keep working), HTTP, process and cluster
// figures. Fed by the HTTP side only; nothing here is touched by the thread that decides steps. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/plan/stale.h"
#include "coordinator/core/core.h"
#include "coordinator/core/request.h"

namespace shoal::metrics {

// A generation request at its end.
struct RequestEnd {
  core::FinishReason reason = core::FinishReason::kStop;
  core::RequestStats stats;
  int32_t max_tokens = 0;
};

// What is counted outside of the core.
struct Beside {
  plan::StaleCounts stale{};
  struct Journal {
    uint64_t entries = 0;
    int64_t bytes = 0;
    uint64_t accepted = 0, again = 0, full = 0;
  };
  Journal journal;  // zeroes without one
};

class Metrics {
 public:
  // `model_name` is the label of that name on every vllm: series.
  explicit Metrics(const std::string& model_name);
  ~Metrics();

  // The first tokens of a request left, so long after its first byte came in. An answer without a token (its first was
  // a stop token) is timed at its end, by its stats.
  void OnFirstToken(DurationNs since_arrival);
  // `tokens` more were generated; `gap` since the ones before them, 0 for the first.
  void OnTokens(int32_t tokens, DurationNs gap);
  void OnRequestEnd(const RequestEnd& end);
  // `route` and `method` come from a bounded set.
  void OnExchange(std::string_view method, std::string_view route, int status, DurationNs duration);

  // Prometheus text format 0.0.4, with gauges as of `state`.
  std::string Render(const core::ClusterState& state, const Beside& beside = {});

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal::metrics
