// The command line of every verb as plain structs: parsed once, passed down. Command line > environment (SHOAL_*) >
// YAML file (--config) > default; `coordinator` and `rank` read no environment, the launcher has done so. Flags carry
// vLLM's long names wherever the meaning is the same.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::cli {

struct ServeOptions {
  std::string model;
  std::vector<std::string> served_model_name;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> api_key, admin_api_key;
  int tensor_parallel_size = 1, pipeline_parallel_size = 1;
  int nnodes = 1;
  std::string workers = "local";  // "local" | "external"
  std::string master_addr = "127.0.0.1";
  int master_port = 0;  // 0: a free one
  bool insecure = false;
  std::string device = "auto";
  std::string load_format = "auto";
  unsigned long long seed = 0;  // of dummy weights
  std::string quantization = "auto";
  std::string compute_dtype = "auto", kv_cache_dtype = "auto";
  std::string numerics = "invariant";
  std::string transport = "auto";
  std::string all_reduce = "auto";
  std::vector<int> device_ids;  // the CUDA device of each slot; empty: the first
  int threads = 0;              // per rank; 0: cores / ranks
  double gpu_memory_utilization = 0.9;
  int block_size = 16;
  int kv_cache_blocks = 0;
  long long kv_cache_memory_bytes = 0;
  int max_model_len = 0, max_num_seqs = 64, max_num_batched_tokens = 512, max_queued_requests = 512;
  double canary_interval = 10;  // seconds; 0: no canary
  bool enforce_eager = false;
  int checksum_interval = 64;                         // plans; 0: never
  double shutdown_timeout = 30, orphan_timeout = 60;  // seconds
  std::string state_dir;                              // empty: a private one, for as long as the launcher lives
  double idempotency_ttl = 86400;                     // seconds
  std::string report_dir = "auto";
  double replace_timeout = 30;  // seconds; 0: for ever
};

struct WorkerOptions {
  std::string master_addr = "127.0.0.1";
  int master_port = 0;  // must be given
  std::string listen = "127.0.0.1:0";
  std::string advertise_address;  // empty: where it listens
  bool insecure = false;
  int slots = 0;  // 0: one, or with CUDA one for each device
  std::vector<int> device_ids;
  int threads = 0;
  double gpu_memory_utilization = 0.9;
  long long memory_bytes = 0;
  std::string device = "auto";
  double orphan_timeout = 60;  // seconds
};

struct InspectOptions {
  std::string model;
  int tensor_parallel_size = 1, pipeline_parallel_size = 1;
  bool json = false;
};

// For `chat`, `status` and `drain`: a running server.
struct ClientOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  bool json = false;          // status
  std::string model, system;  // chat
  double temperature = -1;    // chat; < 0: the server's default
  int max_tokens = 0;         // chat; 0: the server's default
  std::string agent;          // drain
  bool wait = true;           // drain
};

enum class Verb { kServe, kWorker, kInspect, kChat, kStatus, kDrain, kVersion, kCoordinator, kRank, kMaker, kHelp };

struct CommandLine {
  Verb verb = Verb::kHelp;
  ServeOptions serve;  // kServe, kCoordinator
  // kCoordinator, kWorker:
  int ready_fd = -1;           // where it says that it listens, and that it is ready
  int launcher = 0;            // pid of the parent to end with; 0: none
  bool private_state = false;  // kCoordinator: its state directory goes with the launcher
  bool adopts = false;         // kCoordinator: there was one before it
  bool after_crash = false;    // kCoordinator: the one before it died of itself
  WorkerOptions worker;
  InspectOptions inspect;
  ClientOptions client;
  int reader = -1;   // kRank
  std::string help;  // kHelp: what to print
};

// InvalidArgument: what is wrong and the nearest flag that exists.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// The options as YAML that ParseCommandLine reads back through --config; how the launcher hands them to the coordinator
// without secrets in its arguments.
std::string ToYaml(const ServeOptions& options);

}  // namespace shoal::cli
