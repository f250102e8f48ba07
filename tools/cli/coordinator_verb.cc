// Tested by tests/e2e/serve_test.py and bad_start_test.py.
// `shoal coordinator` and `shoal worker`: options become those of the libraries, and what happens is shown.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/quantise.h"
#include "common/plan/shard_plan.h"
#include "coordinator/server/server.h"
#include "tools/cli/device_choice.h"
#include "tools/cli/serve.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "worker/agent/agent.h"
#include "worker/device/open.h"
#include "worker/rank/shape.h"
#include "worker/weights/weights.h"

namespace shoal::cli {
namespace {

// The launcher has decided what `auto` is; to those who start a coordinator by themselves it is the CPU.
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
  plan::EngineOptions engine;
  engine.device = Device(options.device);
  engine.compute_dtype = options.compute_dtype;
  engine.kv_dtype = options.kv_cache_dtype;
  SHOAL_ASSIGN_OR_RETURN(const rank::Numerics numerics, rank::ResolveNumerics(engine));  // no agent would take it
  SHOAL_ASSIGN_OR_RETURN(const model::ModelFiles files,
                         model::OpenModel(options.model, options.load_format == "dummy" ? model::WeightSource::kDummy
                                                                                        : model::WeightSource::kFiles));
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const model::Checkpoint> checkpoint,
                         model::QuantiseAs(options.quantization, files.checkpoint, files.config));
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan plan, plan::MakeShardPlan(files.config, options.tensor_parallel_size,
                                                                         options.pipeline_parallel_size));
  const absl::StatusOr<const ops::OpTable*> found = device::FindTable(Device(options.device));
  // Agents elsewhere may have the plug-in that this host has not.
  const bool elsewhere = options.workers == "external" && options.device == device::kCuda;
  if (!found.ok() && !elsewhere) return found.status();
  const ops::OpTable* const table = found.ok() ? *found : nullptr;
  std::vector<std::vector<std::string>> rows = {{"rank", "tp", "pp", "layers", "heads", "kv heads", "ffn", "weights"}};
  for (const plan::RankShard& shard : plan.ranks) {
    std::string weights = "?";
    if (table != nullptr) {
      SHOAL_ASSIGN_OR_RETURN(const weights::WeightLayout layout,
                             weights::MakeLayout(files.config, *checkpoint, shard, *table, numerics.compute_f32));
      weights = HumanBytes(layout.region_bytes);
    }
    rows.push_back({absl::StrCat(shard.rank), absl::StrCat(shard.tp_index), absl::StrCat(shard.stage),
                    Span(shard.layers), Span(shard.heads), Span(shard.kv_heads), Span(shard.ffn), weights});
  }
  return ModelSummary{
      files.name, absl::StrCat(files.name, "  (", files.config.architecture, ", ", files.config.layers, " layers, ",
                               HumanBytes(files.checkpoint->file_bytes()), ", ",
                               table != nullptr ? std::string(table->name) : options.device, ")\n", FormatTable(rows))};
}

// The directory for stall reports that a value of --report-dir stands for.
std::string ReportDirectory(const std::string& value) {
  if (value != "auto") return value;
  const char* const state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return absl::StrCat(state, "/shoal-reports");
  const char* const home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return absl::StrCat(home, "/.local/state/shoal-reports");
  return "";
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
  out.admin_keys = o.admin_api_key;
  out.shutdown_timeout = static_cast<DurationNs>(o.shutdown_timeout * kSecond);
  out.state_dir = o.state_dir;
  out.idempotency_ttl = static_cast<DurationNs>(o.idempotency_ttl * kSecond);
  out.report_dir = ReportDirectory(o.report_dir);
  core::CoreOptions& core = out.core;
  core.engine.device = Device(o.device);
  core.engine.compute_dtype = o.compute_dtype;
  core.engine.kv_dtype = o.kv_cache_dtype;
  core.engine.load_format = o.load_format;
  core.engine.dummy_seed = o.seed;
  core.engine.quantization = o.quantization;
  core.engine.numerics = o.numerics;
  core.engine.transport = o.transport;
  core.engine.all_reduce = o.all_reduce;
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
  core.canary_interval = static_cast<DurationNs>(o.canary_interval * kSecond);
  core.checksum_interval = o.checksum_interval;
  core.graphs = core.engine.device == "cuda" && !o.enforce_eager;
  return out;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "shoal: %s\n", std::string(status.message()).c_str());
  return 1;
}

absl::Status LauncherGone(int launcher) {
  return absl::CancelledError(absl::StrCat("the launcher, process ", launcher, ", is not the parent any more"));
}

// What the launcher hears.
void Tell(int fd, const std::string& line) {
  if (fd >= 0 && write(fd, line.data(), line.size()) < 0) std::perror("shoal: ready-fd");
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

int RunCoordinatorVerb(const ServeOptions& options, const LaunchedBy& by) {
  if (by.launcher != 0 && !DieWithParent(by.launcher)) return Fail(LauncherGone(by.launcher));
  const std::atomic<bool>& stop = InstallStopFlag();
  SetUpLogging("coordinator");
  auto summary = Summarise(options);
  if (!summary.ok()) return Fail(summary.status());
  std::printf("%s\n", summary->table.c_str());
  std::fflush(stdout);

  server::CoordinatorOptions coordinator = ToCoordinatorOptions(options);
  coordinator.adopts = by.adopts;
  coordinator.after_crash = by.after_crash;
  StartupView view;
  server::Progress progress;
  progress.on_control_ready = [&](const std::string& address, int http_port) {
    if (options.workers == "external") {
      const size_t colon = address.rfind(':');
      std::printf("waiting for agents: shoal worker --master-addr %s --master-port %s --slots N\n",
                  address.substr(0, colon).c_str(), address.substr(colon + 1).c_str());
      std::fflush(stdout);
    }
    Tell(by.ready_fd, absl::StrCat("listening ", address, " ", http_port, "\n"));
  };
  progress.on_state = [&](const core::ClusterState& state) { view.Show(state); };
  progress.on_ready = [&](const std::string& url) {
    Tell(by.ready_fd, "ready\n");  // first: who reads the words below may count on it
    view.Finish();
    const std::string name = coordinator.served_names.empty() ? summary->name : coordinator.served_names[0];
    std::printf("\nready at %s\n\n%s\n\n", url.c_str(), CurlLine(url, name, !options.api_key.empty()).c_str());
    std::fflush(stdout);
  };
  const absl::Status status = server::RunCoordinator(coordinator, progress, stop);
  view.Finish();
  if (by.private_state && by.launcher != 0 && getppid() != by.launcher) {
    std::error_code ignored;
    std::filesystem::remove_all(options.state_dir, ignored);  // the launcher cannot do it any more
  }
  return status.ok() ? 0 : Fail(status);
}

int RunWorker(const WorkerOptions& options, const LaunchedBy& by) {
  if (by.launcher != 0 && !DieWithParent(by.launcher)) return Fail(LauncherGone(by.launcher));
  const std::atomic<bool>& stop = InstallStopFlag();
  SetUpLogging("agent");
  agent::AgentOptions agent;
  agent.coordinator = absl::StrCat(options.master_addr, ":", options.master_port);
  agent.listen = options.listen;
  agent.advertise = options.advertise_address;
  agent.insecure = options.insecure;
  const auto device = ChooseDevice(options.device, maker::Makers("/proc/self/exe", &stop));
  if (!device.ok()) return Fail(device.status());
  if (!device->note.empty()) std::fprintf(stderr, "shoal: %s\n", device->note.c_str());
  agent.device = device->device;
  agent.gpu_memory_utilization = options.gpu_memory_utilization;
  agent.device_ids = options.device_ids;
  agent.slots = agent.device == device::kCuda ? options.slots : std::max(1, options.slots);
  agent.threads = options.threads;
  agent.memory_bytes = options.memory_bytes;
  agent.orphan_timeout = static_cast<DurationNs>(options.orphan_timeout * kSecond);
  bool told = false;
  agent.on_registered = [&] {
    if (!std::exchange(told, true)) Tell(by.ready_fd, "ready\n");
  };
  const absl::Status status = agent::RunAgent(agent, stop);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace shoal::cli
