// One generation request from its body to the last byte of its answer. Lives on the I/O thread of its connection; text
// is parsed and tokenised on the pool, tokens come from the engine's thread through the executor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "coordinator/http/answer_format.h"
#include "coordinator/http/choice.h"
#include "coordinator/http/engine.h"
#include "coordinator/http/generation_spec.h"
#include "coordinator/http/kept.h"
#include "coordinator/http/message.h"
#include "coordinator/http/text_pool.h"
#include "coordinator/metrics/metrics.h"

namespace shoal::http {

// What all generations share; outlives them and the engine's last call.
struct GenerationContext {
  Engine* engine;
  metrics::Metrics* metrics;
  TextPool* pool;
  const Limits* limits;
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  // `fixed`: of an answer that is kept, and so never streamed.
  static void Start(const GenerationContext& context, bool chat, Request request, std::shared_ptr<Responder> responder,
                    std::optional<FixedParts> fixed = std::nullopt);

  Generation(const GenerationContext& context, TimeNs arrived, std::shared_ptr<const ServedModel> model,
             std::shared_ptr<Responder> responder, std::optional<FixedParts> fixed);

 private:
  struct Prepared {
    GenerationSpec spec;
    core::GenerateRequest request;
    std::optional<ApiError> error;
  };
  // What metrics still need when the client, and with it the Generation, has gone.
  struct Record {
    metrics::Metrics* metrics;
    int32_t max_tokens;
  };

  void OnPrepared(std::shared_ptr<Prepared> prepared);
  void OnUpdate(const GenerateUpdate& update);
  void OnGone();
  void OnIdle();

  // One choice's part of an update, and whether that was its end.
  void OnChoice(const ChoiceUpdate& update);
  void EndChoice(size_t index, core::FinishReason reason);
  void Echo();
  void Deliver(size_t index);
  bool BeginStream();
  void FinishIfDone();
  Usage UsageOf(const Choice& choice) const { return {usage_.prompt_tokens, spec_.prompt_only ? 0 : choice.tokens()}; }
  std::string LogprobsOf(const std::vector<ScoredToken>& tokens) const;
  void Fail(const ApiError& error);
  void TakeCounts(const GenerateUpdate& update);
  void Measure(const GenerateUpdate& update);

  const GenerationContext context_;
  const TimeNs arrived_;
  const std::shared_ptr<const ServedModel> model_;
  const std::shared_ptr<Responder> responder_;
  const std::optional<FixedParts> fixed_;

  GenerationSpec spec_;
  AnswerHead head_;
  Usage usage_;
  std::optional<ChunkWriter> chunks_;
  std::vector<int32_t> prompt_;  // with echo
  std::vector<plan::TokenLogprobs> prompt_logprobs_;
  std::vector<Choice> choices_;
  // Of an answer that is not streamed: what the choices have so far.
  std::vector<ChoiceBody> bodies_;
  std::vector<std::vector<ScoredToken>> scored_;
  bool echoed_ = false;
  core::RequestId id_ = 0;
  int32_t preemptions_ = 0, reforms_ = 0;  // as of the engine's last update
  TimeNs last_tokens_ = 0;
  bool submitted_ = false;
  bool stream_begun_ = false;
  bool done_ = false;  // the answer is complete; what still comes from the engine is not for it
};

// An error as a whole response.
void RespondError(const ApiError& error, Responder* responder);

}  // namespace shoal::http
