// Tested by tests/e2e/serve_test.py and bad_start_test.py.
// `shoal coordinator` and `shoal worker`: options become those of the libraries, and what happens is shown.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/plan/shard_plan.h"
#include "coordinator/server/server.h"
#include "kernels/ops/backends.h"
#include "tools/cli/serve.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "worker/agent/agent.h"
#include "worker/weights/weights.h"

namespace shoal::cli {
namespace {

// The device that `auto` stands for in this build.
std::string Device(const std::string& device) { return device == "auto" ? "cpu" : device; }

// Logs go to stderr, one line each; stdout is for what a user reads.
void SetUpLogging(const std::string& who) {
  auto logger = spdlog::stderr_logger_mt(who);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ " + who + " %v");
  spdlog::set_default_logger(std::move(logger));
}

struct ModelSummary {
  std::string name;   // served when no other is given
  std::string table;  // who will hold what
};

absl::StatusOr<ModelSummary> Summarise(const ServeOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const model::ModelFiles files,
                         model::OpenModel(options.model, options.load_format == "dummy" ? model::WeightSource::kDummy
                                                                                        : model::WeightSource::kFiles));
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan plan, plan::MakeShardPlan(files.config, options.tensor_parallel_size,
                                                                         options.pipeline_parallel_size));
  SHOAL_ASSIGN_OR_RETURN(const ops::OpTable* table, ops::FindOpTable(Device(options.device)));
  std::vector<std::vector<std::string>> rows = {{"rank", "tp", "pp", "layers", "heads", "kv heads", "ffn", "weights"}};
  for (const plan::RankShard& shard : plan.ranks) {
    SHOAL_ASSIGN_OR_RETURN(
        const weights::WeightLayout layout,
        weights::MakeLayout(files.config, *files.checkpoint, shard, *table, options.compute_dtype == "f32"));
    rows.push_back({absl::StrCat(shard.rank), absl::StrCat(shard.tp_index), absl::StrCat(shard.stage),
                    Span(shard.layers), Span(shard.heads), Span(shard.kv_heads), Span(shard.ffn),
                    HumanBytes(layout.region_bytes)});
  }
  return ModelSummary{files.name, absl::StrCat(files.name, "  (", files.config.architecture, ", ", files.config.layers,
                                               " layers, ", HumanBytes(files.checkpoint->file_bytes()), ", ",
                                               std::string(table->name), ")\n", FormatTable(rows))};
}

server::CoordinatorOptions ToCoordinatorOptions(const ServeOptions& o) {
  server::CoordinatorOptions out;
  out.model = o.model;
  out.served_names = o.served_model_name;
  out.host = o.host;
  out.port = o.port;
  out.control = absl::StrCat(o.master_addr, ":", o.master_port);
  out.insecure = o.insecure;
  out.api_keys = o.api_key;
  out.shutdown_timeout = static_cast<DurationNs>(o.shutdown_timeout * kSecond);
  core::CoreOptions& core = out.core;
  core.engine.device = Device(o.device);
  core.engine.compute_dtype = o.compute_dtype;
  core.engine.kv_dtype = o.kv_cache_dtype;
  core.engine.load_format = o.load_format;
  core.engine.dummy_seed = o.seed;
  core.engine.transport = o.transport;
  core.engine.block_size = o.block_size;
  core.tp = o.tensor_parallel_size;
  core.pp = o.pipeline_parallel_size;
  core.nnodes = o.nnodes;
  core.replace_timeout = static_cast<DurationNs>(o.replace_timeout * kSecond);
  core.max_model_len = o.max_model_len;
  core.max_num_seqs = o.max_num_seqs;
  core.max_num_batched_tokens = o.max_num_batched_tokens;
  core.max_queued_requests = o.max_queued_requests;
  core.kv_blocks = o.kv_cache_blocks;
  core.kv_memory_bytes = o.kv_cache_memory_bytes;
  return out;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "shoal: %s\n", std::string(status.message()).c_str());
  return 1;
}

absl::Status LauncherGone(int launcher) {
  return absl::CancelledError(absl::StrCat("the launcher, process ", launcher, ", is not the parent any more"));
}

std::string CurlLine(const std::string& url, const std::string& model, bool key) {
  return absl::StrCat("curl ", url, "/v1/chat/completions -H 'Content-Type: application/json'",
                      key ? " -H \"Authorization: Bearer $KEY\"" : "", " \\\n  -d '{\"model\": \"", model,
                      "\", \"messages\": [{\"role\": \"user\", \"content\": \"Name the largest ocean on Earth.\"}], "
                      "\"max_tokens\": 64}'");
}

// Shows the states of a cluster that comes up; one line for each new one.
class StartupView {
 public:
  void Show(const core::ClusterState& state) {
    using Phase = core::ClusterState::Phase;
    if (state.phase == Phase::kLoading && state.load_bytes_total > 0) {
      line_.Update("loading", state.load_bytes_done, state.load_bytes_total);
    } else if (state.detail != detail_) {
      line_.Finish();
      std::printf("%s\n", state.detail.c_str());
      std::fflush(stdout);
    }
    detail_ = state.detail;
  }
  void Finish() { line_.Finish(); }

 private:
  RealClock clock_;
  ProgressLine line_{stdout, isatty(STDOUT_FILENO) == 1, &clock_};
  std::string detail_;
};

}  // namespace

int RunCoordinatorVerb(const ServeOptions& options, int ready_fd, int launcher) {
  if (launcher != 0 && !DieWithParent(launcher)) return Fail(LauncherGone(launcher));
  const std::atomic<bool>& stop = InstallStopFlag();
  SetUpLogging("coordinator");
  auto summary = Summarise(options);
  if (!summary.ok()) return Fail(summary.status());
  std::printf("%s\n", summary->table.c_str());
  std::fflush(stdout);

  server::CoordinatorOptions coordinator = ToCoordinatorOptions(options);
  StartupView view;
  server::Progress progress;
  progress.on_control_ready = [&](const std::string& address) {
    if (options.workers == "external") {
      const size_t colon = address.rfind(':');
      std::printf("waiting for agents: shoal worker --master-addr %s --master-port %s --slots N\n",
                  address.substr(0, colon).c_str(), address.substr(colon + 1).c_str());
      std::fflush(stdout);
    }
    const std::string line = address + "\n";
    if (ready_fd >= 0 && write(ready_fd, line.data(), line.size()) < 0) std::perror("shoal: ready-fd");
    if (ready_fd >= 0) close(ready_fd);
  };
  progress.on_state = [&](const core::ClusterState& state) { view.Show(state); };
  progress.on_ready = [&](const std::string& url) {
    view.Finish();
    const std::string name = coordinator.served_names.empty() ? summary->name : coordinator.served_names[0];
    std::printf("\nready at %s\n\n%s\n\n", url.c_str(), CurlLine(url, name, !options.api_key.empty()).c_str());
    std::fflush(stdout);
  };
  const absl::Status status = server::RunCoordinator(coordinator, progress, stop);
  view.Finish();
  return status.ok() ? 0 : Fail(status);
}

int RunWorker(const WorkerOptions& options, int launcher) {
  if (launcher != 0 && !DieWithParent(launcher)) return Fail(LauncherGone(launcher));
  const std::atomic<bool>& stop = InstallStopFlag();
  SetUpLogging("agent");
  agent::AgentOptions agent;
  agent.coordinator = absl::StrCat(options.master_addr, ":", options.master_port);
  agent.listen = options.listen;
  agent.insecure = options.insecure;
  agent.slots = options.slots;
  agent.threads = options.threads;
  agent.memory_bytes = options.memory_bytes;
  agent.device = Device(options.device);
  agent.orphan_timeout = static_cast<DurationNs>(options.orphan_timeout * kSecond);
  const absl::Status status = agent::RunAgent(agent, stop);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace shoal::cli
