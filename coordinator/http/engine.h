// What the HTTP side needs of the rest: the seam between text and tokens. server/ implements it over the core; tests
// may drive the routes with a scripted one, users always meet the real one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "coordinator/core/core.h"
#include "coordinator/core/request.h"

namespace shoal::http {

// What is served. Immutable once the model is known.
struct ServedModel {
  std::vector<std::string> names;  // the first is the one shown
  int64_t created = 0;             // seconds since 1970
  std::string root;                // path or org/name as given
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;  // answers that can be made at once
  int32_t vocab = 0;         // token ids below it have an embedding; the tokenizer may know more or fewer
  std::vector<int32_t> eos_tokens;
  bool add_bos = false;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  // null: the model has none
  std::string system_fingerprint;                           // numerics id
};

// What is new of one choice.
struct ChoiceUpdate {
  int32_t choice = 0;
  std::vector<int32_t> tokens;                 // in order
  std::vector<plan::TokenLogprobs> logprobs;   // one for each token, when they were asked for
  std::optional<core::FinishReason> finished;  // kStop or kLength: it has ended, and others have not
};

struct GenerateUpdate {
  std::vector<ChoiceUpdate> choices;                 // each at most once
  std::vector<plan::TokenLogprobs> prompt_logprobs;  // once, with or before the first token, when they were asked for
  bool finished = false;                             // the last update of the request: what had not ended has now
  core::FinishReason reason = core::FinishReason::kStop;  // of those that had not ended
  absl::Status error;                                     // with kError
  int32_t retry_after_s = 0;
  int32_t preemptions = 0;   // so far
  int32_t reforms = 0;       // so far; when it grows, Model() has the fingerprint of what comes from here on
  core::RequestStats stats;  // with the last update
};

// All methods are thread-safe and return at once.
class Engine {
 public:
  virtual ~Engine() = default;

  // Null until a group is ready for the first time.
  virtual std::shared_ptr<const ServedModel> Model() const = 0;

  // `on_update` is called on the engine's thread: hand over and return, never block. After the update with `finished`
  // it is called no more. Exactly one such update comes for every request.
  virtual core::RequestId Submit(core::GenerateRequest request, std::function<void(GenerateUpdate)> on_update) = 0;
  // `choice` alone, or all: -1. Harmless when it has ended.
  virtual void Cancel(core::RequestId id, core::CancelCause cause, int32_t choice = -1) = 0;

  // The agent's ranks go to another one, as the cluster's state tells. Harmless when it is unknown, or drained already.
  virtual void DrainAgent(const plan::AgentId& agent) = 0;

  virtual core::ClusterState Cluster() const = 0;

  // Health is forward progress: ready = a group is up and has shown that it computes (a step was answered, or the
  // canary), and it is idle or a rank got on with its work lately.
  virtual bool Ready() const = 0;
};

}  // namespace shoal::http
