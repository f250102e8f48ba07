// The coordinator process: model, core thread, agents, HTTP. The only place that sees all of them.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/core/core.h"

namespace shoal::server {

struct CoordinatorOptions {
  std::string model;                      // as given on the command line
  std::vector<std::string> served_names;  // empty: the model's own name
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string control = "127.0.0.1:0";  // where agents register
  bool insecure = false;                // a control address off loopback is wanted, without TLS
  std::vector<std::string> api_keys;    // empty: no key is asked for
  std::vector<std::string> admin_keys;  // for what changes the cluster, see http::ApiOptions
  int http_threads = 1;
  core::CoreOptions core;  // model, revision, incarnation are filled in here
  DurationNs shutdown_timeout = 30 * kSecond;
  // Where the journal of requests with an Idempotency-Key is, and how long it keeps answers, and what canaries have to
  // answer; empty: such requests are refused, and canaries are learned anew.
  std::string state_dir;
  DurationNs idempotency_ttl = 24 * 3600 * kSecond;
  bool adopts = false;       // there was a coordinator before this one, and its agents may be alive
  bool after_crash = false;  // the coordinator before this one, with the same directory, died of itself
  std::string report_dir;    // where stall reports go; empty: nowhere
};

// What happens while the server comes up, for whoever shows it (the terminal of `serve`). Called from one thread.
struct Progress {
  // Agents may connect, and HTTP answers.
  std::function<void(const std::string& control_address, int http_port)> on_control_ready;
  std::function<void(const core::ClusterState&)> on_state;  // several times a second until ready
  std::function<void(const std::string& url)> on_ready;     // HTTP answers and the group is up
};

// Serves until *stop is true (a signal handler sets it and then calls nothing else), then finishes what runs within
// shutdown_timeout. Not OK, worded for the terminal: what could not be started, what broke, or how many requests had to
// be cut at the end (DeadlineExceeded).
absl::Status RunCoordinator(CoordinatorOptions options, const Progress& progress, const std::atomic<bool>& stop);

}  // namespace shoal::server
