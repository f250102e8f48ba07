// An engine whose answers the test writes, and a byte tokenizer: what the routes need when no model is wanted.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/mutex.h"
#include "coordinator/http/engine.h"

namespace shoal::http {

// Ids 0..255 are bytes; then <|im_start|> and <|im_end|>.
inline constexpr int32_t kImStart = 256, kImEnd = 257, kTinyVocab = 258;
std::shared_ptr<const text::Tokenizer> TinyTokenizer();
// "<|im_start|>role\ncontent<|im_end|>\n" for each message, then the assistant's start.
std::shared_ptr<const text::ChatTemplate> TinyChatTemplate();
std::vector<int32_t> Bytes(std::string_view text);
std::string BytesToText(const std::vector<int32_t>& ids);

// Thread-safe. Requests wait in a list until the test answers them, or are answered by `auto_answer`.
class ScriptedEngine final : public Engine {
 public:
  ScriptedEngine();

  std::shared_ptr<const ServedModel> Model() const override;
  core::RequestId Submit(core::GenerateRequest request, std::function<void(GenerateUpdate)> on_update) override;
  void Cancel(core::RequestId id, core::CancelCause cause, int32_t choice = -1) override;
  void DrainAgent(const plan::AgentId& agent) override;
  core::ClusterState Cluster() const override;
  bool Ready() const override;

  void SetModel(std::shared_ptr<const ServedModel> model);
  ServedModel DefaultModel() const;
  void SetReady(bool ready);

  // The next request that came, in order; waits for it.
  core::GenerateRequest AwaitRequest();
  // `logprobs`: of each token; empty: none.
  void Emit(core::RequestId id, std::vector<int32_t> tokens, int32_t choice = 0,
            std::vector<plan::TokenLogprobs> logprobs = {});
  void EmitPrompt(core::RequestId id, std::vector<plan::TokenLogprobs> logprobs);
  void FinishChoice(core::RequestId id, core::FinishReason reason, int32_t choice);
  void Finish(core::RequestId id, core::FinishReason reason, std::vector<int32_t> last_tokens = {});
  void FailWith(core::RequestId id, absl::Status error, int32_t retry_after_s = 0);
  // Waits until the request was cancelled; why.
  core::CancelCause AwaitCancel(core::RequestId id);
  int submitted() const;
  std::vector<plan::AgentId> drained() const;
  void SetReforms(core::RequestId id, int32_t reforms);  // that its later updates tell of

 private:
  void Update(core::RequestId id, GenerateUpdate update);

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<const ServedModel> model_ SHOAL_GUARDED_BY(mutex_);
  bool ready_ SHOAL_GUARDED_BY(mutex_) = true;
  core::RequestId next_id_ SHOAL_GUARDED_BY(mutex_) = 1;
  std::vector<core::GenerateRequest> requests_ SHOAL_GUARDED_BY(mutex_);
  std::vector<plan::AgentId> drained_ SHOAL_GUARDED_BY(mutex_);
  size_t awaited_ SHOAL_GUARDED_BY(mutex_) = 0;
  std::map<core::RequestId, std::function<void(GenerateUpdate)>> sinks_ SHOAL_GUARDED_BY(mutex_);
  std::map<core::RequestId, core::CancelCause> cancelled_ SHOAL_GUARDED_BY(mutex_);
  std::map<core::RequestId, int32_t> open_ SHOAL_GUARDED_BY(mutex_);  // choices that were not cancelled
  std::map<core::RequestId, core::RequestStats> stats_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::http
