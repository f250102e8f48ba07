#include "tools/cli/options.h"

#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/build_id.h"
#include "common/base/status_macros.h"

namespace shoal::cli {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr long long kMaxBytes = std::numeric_limits<long long>::max();

// "--max-model-len" -> SHOAL_MAX_MODEL_LEN.
std::string EnvironmentName(const std::string& flag) {
  std::string name = "SHOAL_" + flag.substr(2);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : std::toupper(c); });
  return name;
}

// One flag of a verb: its long name first, further spellings after it.
template <typename T>
CLI::Option* Flag(CLI::App* app, const std::string& names, T& value, const std::string& help) {
  const std::string first = names.substr(0, names.find(','));
  return app->add_option(names, value, help)->envname(EnvironmentName(first))->capture_default_str();
}

CLI::Option* Switch(CLI::App* app, const std::string& name, bool& value, const std::string& help) {
  return app->add_flag(name, value, help)->envname(EnvironmentName(name));
}

void AddGpuFlags(CLI::App* app, double& utilization, std::vector<int>& device_ids) {
  Flag(app, "--device-ids", device_ids,
       "The GPU of each rank that this host runs, as in 0,1; one that is named again is shared, for tests only")
      ->delimiter(',')
      ->allow_extra_args(false);
  Flag(app, "--gpu-memory-utilization", utilization, "Part of each GPU's memory that may be in use")
      ->check(CLI::Range(0.01, 1.0));
}

void AddServeGroupFlags(CLI::App* app, ServeOptions& o) {
  Flag(app, "--tensor-parallel-size,-t", o.tensor_parallel_size, "Ranks that share each layer")
      ->check(CLI::Range(1, 1024));
  Flag(app, "--pipeline-parallel-size,-p", o.pipeline_parallel_size, "Stages that layers are spread over")
      ->check(CLI::Range(1, 1024));
  Flag(app, "--nnodes", o.nnodes, "Agents to wait for before the group forms")->check(CLI::Range(1, 1024));
  Flag(app, "--workers", o.workers, "local: start an agent here; external: wait for `shoal worker`s")
      ->check(CLI::IsMember({"local", "external"}));
  Flag(app, "--master-addr", o.master_addr, "Address where agents register");
  Flag(app, "--master-port", o.master_port, "Port where agents register; 0: a free one")->check(CLI::Range(0, 65535));
  Switch(app, "--insecure", o.insecure, "Allow agents off this host without TLS");
  Flag(app, "--device", o.device, "auto (CUDA where it can be used, else the CPU) | cuda | cpu | null | ref | ...");
  AddGpuFlags(app, o.gpu_memory_utilization, o.device_ids);
  Flag(app, "--threads", o.threads, "Compute threads per rank; 0: cores / ranks")->check(CLI::Range(0, 1024));
  Flag(app, "--transport", o.transport,
       "Between ranks: auto (nccl on CUDA; else shm inside one host, gloo between hosts) | shm | gloo (TCP) | nccl")
      ->check(CLI::IsMember({"auto", "shm", "gloo", "nccl"}));
  Flag(app, "--all-reduce", o.all_reduce,
       "Small sums between CUDA ranks: auto (one shot over peer memory where devices have it, else nccl) | nccl | "
       "one-shot")
      ->check(CLI::IsMember({"auto", "nccl", "one-shot"}));
}

void AddServeModelFlags(CLI::App* app, ServeOptions& o) {
  Flag(app, "--served-model-name", o.served_model_name, "Names that clients may use; the first is shown");
  Flag(app, "--load-format", o.load_format, "auto | dummy (made-up weights)")->check(CLI::IsMember({"auto", "dummy"}));
  Flag(app, "--seed", o.seed, "Of dummy weights");
  Flag(app, "--quantization", o.quantization,
       "auto (as stored) | fp8 | int8 | int4 (matrices of the layers, while they load)")
      ->check(CLI::IsMember({"auto", "fp8", "int8", "int4"}));
  Flag(app, "--compute-dtype", o.compute_dtype, "auto (as stored) | f32 (reference)")
      ->check(CLI::IsMember({"auto", "f32"}));
  Flag(app, "--kv-cache-dtype", o.kv_cache_dtype, "auto | f32 | f16 | bf16")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}));
  Flag(app, "--numerics", o.numerics,
       "On CUDA: invariant (the same bytes alone or in a batch) | fast (large products by cuBLASLt)")
      ->check(CLI::IsMember({"invariant", "fast"}));
  Flag(app, "--block-size", o.block_size, "Tokens per KV block")->check(CLI::IsMember({16, 32, 64, 128}));
  Flag(app, "--num-gpu-blocks-override,--kv-cache-blocks", o.kv_cache_blocks, "KV blocks; 0: as memory allows")
      ->check(CLI::Range(0, kMaxInt));
  Flag(app, "--kv-cache-memory-bytes", o.kv_cache_memory_bytes, "KV cache per rank; 0: as memory allows")
      ->check(CLI::Range(0LL, kMaxBytes));
  Flag(app, "--max-model-len", o.max_model_len, "Tokens of prompt and answer; 0: what the model allows")
      ->check(CLI::Range(0, kMaxInt));
  Flag(app, "--max-num-seqs", o.max_num_seqs, "Sequences running at once")->check(CLI::Range(1, 65536));
  Flag(app, "--max-num-batched-tokens", o.max_num_batched_tokens, "Tokens per step")->check(CLI::Range(1, 1 << 20));
  Flag(app, "--max-queued-requests", o.max_queued_requests, "Waiting requests before 429")
      ->check(CLI::Range(1, 1 << 20));
}

void AddServeFlags(CLI::App* app, ServeOptions& o) {
  Flag(app, "model,--model", o.model, "A .gguf file, a directory, or org/name[@rev] in the Hugging Face cache")
      ->envname("SHOAL_MODEL");
  Flag(app, "--host", o.host, "Address of the HTTP server");
  Flag(app, "--port", o.port, "Port of the HTTP server")
      ->check(CLI::Range(0, 65535))
      ->envname("SHOAL_HTTP_PORT");  // not SHOAL_PORT: Kubernetes sets that for a Service called "shoal"
  Flag(app, "--api-key", o.api_key, "Keys that clients must send one of");
  Flag(app, "--admin-api-key", o.admin_api_key,
       "Keys that operators must send one of to change the cluster (drain); they open all else, too");
  AddServeModelFlags(app, o);
  AddServeGroupFlags(app, o);
  Flag(app, "--canary-interval", o.canary_interval,
       "Seconds from one canary, a tiny prompt with a known answer, to the next while idle; 0: none")
      ->check(CLI::Range(0.0, 86400.0));
  Switch(app, "--enforce-eager", o.enforce_eager, "On CUDA: launch each kernel of a step by itself, record no graphs");
  Flag(app, "--checksum-interval", o.checksum_interval,
       "Steps from one in which tensor ranks compare their hidden states to the next; 0: never")
      ->check(CLI::Range(0, kMaxInt));
  Flag(app, "--shutdown-timeout", o.shutdown_timeout, "Seconds for running requests at the end")
      ->check(CLI::Range(0.0, 86400.0));
  Flag(app, "--orphan-timeout", o.orphan_timeout, "Seconds the local agent outlives the coordinator")
      ->check(CLI::Range(0.0, 86400.0));
  Flag(app, "--state-dir", o.state_dir,
       "Directory of the journal of requests with an Idempotency-Key; empty: one that goes when serve ends");
  Flag(app, "--idempotency-ttl", o.idempotency_ttl, "Seconds that answers to such requests are kept")
      ->check(CLI::Range(1.0, 30 * 86400.0));
  Flag(app, "--report-dir", o.report_dir,
       "Where a report goes when ranks fail or stall; auto: shoal-reports in $XDG_STATE_HOME or ~/.local/state; "
       "empty: nowhere");
  Flag(app, "--replace-timeout", o.replace_timeout, "Seconds for lost ranks before fewer must do; 0: for ever")
      ->check(CLI::Range(0.0, 86400.0));
}

void AddWorkerFlags(CLI::App* app, WorkerOptions& o) {
  Flag(app, "--master-addr", o.master_addr, "Address of the coordinator's control endpoint");
  Flag(app, "--master-port", o.master_port, "Port of it")->check(CLI::Range(1, 65535));
  Flag(app, "--listen", o.listen, "host:port of the agent's own endpoint; port 0: a free one");
  Flag(app, "--advertise-address", o.advertise_address,
       "host:port where the coordinator reaches that endpoint, when it is another one (NAT, a Kubernetes service); "
       "ranks talk to each other on the host of --listen");
  Switch(app, "--insecure", o.insecure, "Allow addresses off this host without TLS");
  Flag(app, "--slots", o.slots, "Ranks that this host runs; 0: one, or one for each GPU")->check(CLI::Range(0, 1024));
  Flag(app, "--threads", o.threads, "Compute threads per rank; 0: cores / slots")->check(CLI::Range(0, 1024));
  Flag(app, "--memory-bytes", o.memory_bytes,
       "Of the host, for weights and KV of all ranks; 0: half of what is available")
      ->check(CLI::Range(0LL, kMaxBytes));
  Flag(app, "--device", o.device, "auto (CUDA where it can be used, else the CPU) | cuda | cpu | null | ref");
  AddGpuFlags(app, o.gpu_memory_utilization, o.device_ids);
  Flag(app, "--orphan-timeout", o.orphan_timeout, "Seconds without a coordinator before it exits")
      ->check(CLI::Range(0.0, 86400.0));
}

void AddClientFlags(CLI::App* app, ClientOptions& o) {
  Flag(app, "--url,--cluster", o.url, "The server");
  Flag(app, "--api-key", o.api_key, "Key to send");
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// " Did you mean --x?" for the nearest long flag, or nothing when none is near.
std::string Suggestion(const CLI::App* app, const std::string& wrong) {
  std::string best;
  int best_distance = static_cast<int>(wrong.size()) / 3 + 1;
  for (const CLI::Option* option : app->get_options()) {
    for (const std::string& name : option->get_lnames()) {
      const int distance = EditDistance(wrong, "--" + name);
      if (distance < best_distance) best_distance = distance, best = "--" + name;
    }
  }
  return best.empty() ? "" : absl::StrCat(" Did you mean ", best, "?");
}

// Values of a YAML file for the options of `app` that neither command line nor environment has set.
absl::Status ApplyYaml(CLI::App* app, const std::string& path) {
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (!root.IsMap() && !root.IsNull()) return absl::InvalidArgumentError(absl::StrCat(path, ": not a map of flags"));
    for (const auto& entry : root) {
      const std::string key = entry.first.as<std::string>();
      CLI::Option* option = app->get_option_no_throw("--" + key);
      if (option == nullptr || key == "config" || key == "help") {
        return absl::InvalidArgumentError(absl::StrCat(path, ": unknown key ", key, ".", Suggestion(app, "--" + key)));
      }
      if (option->count() > 0) continue;
      if (entry.second.IsSequence()) {
        for (const auto& value : entry.second) option->add_result(value.as<std::string>());
      } else {
        option->add_result(entry.second.as<std::string>());
      }
      option->run_callback();
    }
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
  return absl::OkStatus();
}

// All verbs and where their flags go.
struct Parser {
  CLI::App app{"Shoal serves large language models from a cluster of devices as if it were one machine.", "shoal"};
  CommandLine line;
  std::string config;
  std::map<const CLI::App*, Verb> verbs;

  CLI::App* Add(Verb verb, const std::string& name, const std::string& help) {
    CLI::App* sub = app.add_subcommand(name, help);
    verbs[sub] = verb;
    return sub;
  }

  Parser() {
    app.require_subcommand(0, 1);
    CLI::App* serve = Add(Verb::kServe, "serve", "Serve a model over HTTP");
    AddServeFlags(serve, line.serve);
    CLI::App* worker = Add(Verb::kWorker, "worker", "Run the agent of a host: ranks for a coordinator elsewhere");
    AddWorkerFlags(worker, line.worker);
    CLI::App* inspect = Add(Verb::kInspect, "inspect", "Show a model and what each rank would hold");
    Flag(inspect, "model,--model", line.inspect.model, "As for serve")->envname("SHOAL_MODEL");
    Flag(inspect, "--tensor-parallel-size,-t", line.inspect.tensor_parallel_size, "")->check(CLI::Range(1, 1024));
    Flag(inspect, "--pipeline-parallel-size,-p", line.inspect.pipeline_parallel_size, "")->check(CLI::Range(1, 1024));
    Switch(inspect, "--json", line.inspect.json, "As JSON");
    CLI::App* chat = Add(Verb::kChat, "chat", "Talk to a running server");
    AddClientFlags(chat, line.client);
    Flag(chat, "--model", line.client.model, "Served name; empty: the first one");
    Flag(chat, "--system", line.client.system, "System message");
    Flag(chat, "--temperature", line.client.temperature, "Below 0: the server's default");
    Flag(chat, "--max-tokens", line.client.max_tokens, "Per answer; 0: the server's default")
        ->check(CLI::Range(0, kMaxInt));
    CLI::App* status = Add(Verb::kStatus, "status", "Show agents and ranks of a running server");
    AddClientFlags(status, line.client);
    Switch(status, "--json", line.client.json, "As JSON");
    CLI::App* drain = Add(Verb::kDrain, "drain", "Move an agent's ranks to another one, so that it can be stopped");
    AddClientFlags(drain, line.client);
    Flag(drain, "agent,--agent", line.client.agent, "Its id, the beginning of it, or its host (see `shoal status`)")
        ->envname("");
    drain->add_flag("--wait,!--no-wait", line.client.wait, "Until it has no ranks (the default), and show how it goes");
    Add(Verb::kVersion, "version", "Print the version and build id");
    CLI::App* internal = Add(Verb::kCoordinator, "coordinator", "")->group("");
    AddServeFlags(internal, line.serve);
    internal->add_flag("--private-state", line.private_state);
    internal->add_flag("--adopt", line.adopts);
    internal->add_flag("--after-crash", line.after_crash);
    CLI::App* rank = Add(Verb::kRank, "rank", "")->group("");
    rank->add_option("--reader", line.reader)->required();
    Add(Verb::kMaker, "maker", "")->group("");
    for (CLI::App* sub : {serve, worker, internal}) {
      sub->add_option("--config", config, "YAML file with the same names")->envname("SHOAL_CONFIG");
    }
    for (CLI::App* sub : {worker, internal}) {
      sub->add_option("--launcher", line.launcher)->group("");
      sub->add_option("--ready-fd", line.ready_fd)->group("");
    }
  }

  // CLI11 lets the environment fill the flags of all verbs, and verbs share what they fill: only the one that the
  // command line names may read it. The coordinator may not: its file has what the launcher found there already.
  void RestrictEnvironment(int argc, const char* const* argv) {
    const auto is_verb = [this](const char* word) {
      return std::any_of(verbs.begin(), verbs.end(), [word](const auto& v) { return v.first->get_name() == word; });
    };
    const char* const* const named = std::find_if(argv + 1, argv + argc, is_verb);
    for (CLI::App* sub : app.get_subcommands({})) {
      if (named != argv + argc && sub->get_name() == *named && verbs.at(sub) != Verb::kCoordinator) continue;
      for (CLI::Option* option : sub->get_options()) option->envname("");
    }
  }
};

// The verb and words of a command line, for errors about words that nobody takes.
absl::Status UnknownWords(const CLI::App* sub, const CLI::App& app) {
  const std::vector<std::string> words = sub != nullptr ? sub->remaining() : app.remaining();
  const std::string& word = words.front();
  if (sub == nullptr && word.rfind('-', 0) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("unknown verb ", word, ". `shoal --help` lists them."));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown argument ", word, ".", Suggestion(sub != nullptr ? sub : &app, word)));
}

absl::Status RequireModel(const CommandLine& line) {
  const bool serves = line.verb == Verb::kServe || line.verb == Verb::kCoordinator;
  if ((serves && line.serve.model.empty()) || (line.verb == Verb::kInspect && line.inspect.model.empty())) {
    return absl::InvalidArgumentError("no model given: a .gguf file, a model directory, or org/name");
  }
  if (line.verb == Verb::kDrain && line.client.agent.empty()) {
    return absl::InvalidArgumentError("no agent given: `shoal status` lists them");
  }
  if (line.verb == Verb::kWorker && line.worker.master_port == 0) {
    return absl::InvalidArgumentError("--master-port is needed: the one that `shoal serve --workers external` prints");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  Parser parser;
  parser.RestrictEnvironment(argc, argv);
  parser.app.allow_extras();
  for (CLI::App* sub : parser.app.get_subcommands({})) sub->allow_extras();
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto chosen = parser.app.get_subcommands();
    parser.line.help = (chosen.empty() ? &parser.app : chosen[0])->help();
    return parser.line;
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(e.what());
  }
  const auto chosen = parser.app.get_subcommands();
  const CLI::App* sub = chosen.empty() ? nullptr : chosen[0];
  if (!parser.app.remaining().empty() || (sub != nullptr && !sub->remaining().empty())) {
    return UnknownWords(sub != nullptr && !sub->remaining().empty() ? sub : nullptr, parser.app);
  }
  if (sub == nullptr) {
    parser.line.help = parser.app.help();
    return parser.line;
  }
  if (!parser.config.empty()) SHOAL_RETURN_IF_ERROR(ApplyYaml(chosen[0], parser.config));
  parser.line.verb = parser.verbs.at(sub);
  SHOAL_RETURN_IF_ERROR(RequireModel(parser.line));
  return parser.line;
}

std::string ToYaml(const ServeOptions& o) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  const auto put = [&out](const char* key, const auto& value) { out << YAML::Key << key << YAML::Value << value; };
  put("model", o.model);
  if (!o.served_model_name.empty()) put("served-model-name", o.served_model_name);
  put("host", o.host);
  put("port", o.port);
  if (!o.api_key.empty()) put("api-key", o.api_key);
  if (!o.admin_api_key.empty()) put("admin-api-key", o.admin_api_key);
  put("tensor-parallel-size", o.tensor_parallel_size);
  put("pipeline-parallel-size", o.pipeline_parallel_size);
  put("nnodes", o.nnodes);
  put("workers", o.workers);
  put("master-addr", o.master_addr);
  put("master-port", o.master_port);
  put("insecure", o.insecure);
  put("device", o.device);
  put("load-format", o.load_format);
  put("seed", o.seed);
  put("quantization", o.quantization);
  put("compute-dtype", o.compute_dtype);
  put("kv-cache-dtype", o.kv_cache_dtype);
  put("numerics", o.numerics);
  put("transport", o.transport);
  put("all-reduce", o.all_reduce);
  put("threads", o.threads);
  if (!o.device_ids.empty()) put("device-ids", o.device_ids);
  put("gpu-memory-utilization", o.gpu_memory_utilization);
  put("block-size", o.block_size);
  put("kv-cache-blocks", o.kv_cache_blocks);
  put("kv-cache-memory-bytes", o.kv_cache_memory_bytes);
  put("max-model-len", o.max_model_len);
  put("max-num-seqs", o.max_num_seqs);
  put("max-num-batched-tokens", o.max_num_batched_tokens);
  put("max-queued-requests", o.max_queued_requests);
  put("canary-interval", o.canary_interval);
  put("checksum-interval", o.checksum_interval);
  put("enforce-eager", o.enforce_eager);
  put("shutdown-timeout", o.shutdown_timeout);
  put("orphan-timeout", o.orphan_timeout);
  if (!o.state_dir.empty()) put("state-dir", o.state_dir);
  put("idempotency-ttl", o.idempotency_ttl);
  put("report-dir", o.report_dir);
  put("replace-timeout", o.replace_timeout);
  out << YAML::EndMap;
  return out.c_str();
}

}  // namespace shoal::cli
