#include "coordinator/http/generation.h"

#include <time.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "coordinator/http/json_writer.h"
#include "coordinator/http/prepare.h"
#include "coordinator/http/response_head.h"

namespace shoal::http {
namespace {

ApiError LoadingError() { return MakeError(ErrorKind::kUnavailable, "the model is still loading; try again shortly"); }

// The same answer each time that it is made; a stream cannot be kept.
std::optional<ApiError> Fix(const FixedParts& fixed, GenerationSpec* spec) {
  if (spec->stream) {
    return MakeError(ErrorKind::kUnsupportedParameter,
                     "an Idempotency-Key is supported without 'stream' only: leave out one of the two", "stream");
  }
  if (!spec->seed.has_value()) spec->seed = fixed.seed;
  return std::nullopt;
}

}  // namespace

void RespondError(const ApiError& error, Responder* responder) { responder->Respond(ErrorResponse(error)); }

void Generation::Start(const GenerationContext& context, bool chat, Request request,
                       std::shared_ptr<Responder> responder, std::optional<FixedParts> fixed) {
  std::shared_ptr<const ServedModel> model = context.engine->Model();
  if (model == nullptr) return RespondError(LoadingError(), responder.get());
  auto generation = std::make_shared<Generation>(context, request.arrived, model, responder, fixed);
  responder->OnGone([generation] { generation->OnGone(); });
  // The job holds no strong reference: the last one is always dropped on the I/O thread.
  auto job = [weak = std::weak_ptr<Generation>(generation), executor = responder->executor(), model, chat,
              limits = context.limits, body = std::move(request.body), fixed = std::move(fixed)] {
    auto prepared = std::make_shared<Prepared>();
    GenerationSpec& spec = prepared->spec;
    prepared->error = chat ? ParseChat(body, *limits, &spec) : ParseCompletion(body, *limits, &spec);
    if (!prepared->error && fixed.has_value()) prepared->error = Fix(*fixed, &spec);
    if (!prepared->error) prepared->error = CheckModelName(*model, spec.model);
    if (!prepared->error) prepared->error = Prepare(spec, *model, &prepared->request);
    executor->Post([weak, prepared] {
      if (const auto self = weak.lock()) self->OnPrepared(prepared);
    });
  };
  if (!context.pool->Submit(std::move(job))) {
    RespondError(MakeError(ErrorKind::kOverloaded, "too many requests wait for tokenisation; try again shortly"),
                 responder.get());
  }
}

Generation::Generation(const GenerationContext& context, TimeNs arrived, std::shared_ptr<const ServedModel> model,
                       std::shared_ptr<Responder> responder, std::optional<FixedParts> fixed)
    : context_(context),
      arrived_(arrived),
      model_(std::move(model)),
      responder_(std::move(responder)),
      fixed_(std::move(fixed)) {}

void Generation::OnPrepared(std::shared_ptr<Prepared> prepared) {
  if (done_) return;
  if (prepared->error.has_value()) return Fail(*prepared->error);
  spec_ = std::move(prepared->spec);
  head_.chat = spec_.chat;
  head_.id = (spec_.chat ? "chatcmpl-" : "cmpl-") + (fixed_.has_value() ? fixed_->id : RandomHex(16));
  head_.created = fixed_.has_value() ? fixed_->created : time(nullptr);
  head_.model = spec_.model.empty() ? model_->names.front() : spec_.model;
  head_.system_fingerprint = model_->system_fingerprint;
  usage_.prompt_tokens = static_cast<int32_t>(prepared->request.prompt.size());
  if (spec_.stream) chunks_.emplace(head_, spec_.include_usage, spec_.continuous_usage);
  const auto n = static_cast<size_t>(spec_.n);
  choices_.reserve(n);
  for (size_t i = 0; i < n; ++i) choices_.emplace_back(spec_, model_->tokenizer);
  bodies_.resize(n);
  scored_.resize(n);
  if (spec_.echo) prompt_ = prepared->request.prompt;

  prepared->request.arrived = arrived_;
  const Record record{context_.metrics, prepared->request.max_tokens};
  submitted_ = true;
  if (spec_.stream) {
    responder_->OnIdle(context_.limits->stream_keep_alive, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->OnIdle();
    });
  }
  id_ = context_.engine->Submit(
      std::move(prepared->request),
      [record, weak = weak_from_this(), executor = responder_->executor()](GenerateUpdate update) {
        executor->Post([record, weak, update = std::move(update)] {
          if (update.finished) {
            record.metrics->OnRequestEnd({update.reason, update.stats, record.max_tokens});
          }
          if (const auto self = weak.lock()) self->OnUpdate(update);
        });
      });
}

void Generation::OnUpdate(const GenerateUpdate& update) {
  if (done_) return;
  Measure(update);
  TakeCounts(update);
  if (!update.prompt_logprobs.empty()) prompt_logprobs_ = update.prompt_logprobs;
  for (const ChoiceUpdate& choice : update.choices) {
    OnChoice(choice);
    if (done_) return;
  }
  FinishIfDone();
  if (done_ || !update.finished) return;
  if (update.reason == core::FinishReason::kError) return Fail(FromStatus(update.error, update.retry_after_s));
  if (update.reason == core::FinishReason::kCancelled) {
    return Fail(FromStatus(absl::UnavailableError("the server ended this request"), update.retry_after_s));
  }
  Echo();
  for (size_t i = 0; i < choices_.size() && !done_; ++i) EndChoice(i, update.reason);
  FinishIfDone();
}

void Generation::OnChoice(const ChoiceUpdate& update) {
  const auto index = static_cast<size_t>(update.choice);
  Choice& choice = choices_[index];
  if (choice.done) return;
  Echo();
  for (size_t i = 0; i < update.tokens.size() && !spec_.prompt_only; ++i) {
    choice.Push(update.tokens[i], update.logprobs.empty() ? nullptr : &update.logprobs[i]);
  }
  if (choice.stopped()) {
    context_.engine->Cancel(id_, core::CancelCause::kStopString, update.choice);
    return EndChoice(index, core::FinishReason::kStop);
  }
  if (update.finished.has_value()) return EndChoice(index, *update.finished);
  if (!update.tokens.empty()) Deliver(index);
}

// In front of all that is generated.
void Generation::Echo() {
  if (!spec_.echo || std::exchange(echoed_, true)) return;
  std::string text = spec_.prompt;
  if (!spec_.prompt_ids.empty()) {
    text::Detokenizer whole(model_->tokenizer, !spec_.skip_special_tokens, /*at_text_start=*/true);
    for (const int32_t token : prompt_) text += whole.Push(token);
  }
  for (Choice& choice : choices_) choice.Echo(prompt_, text, prompt_logprobs_);
}

void Generation::EndChoice(size_t index, core::FinishReason reason) {
  Choice& choice = choices_[index];
  if (choice.done) return;
  choice.End();
  Deliver(index);
  if (done_) return;
  choice.done = true;
  AnswerEnd end;
  end.finish_reason = reason == core::FinishReason::kLength || spec_.prompt_only ? "length" : "stop";
  if (choice.stopped()) {
    end.stop_reason.clear();
    AppendJsonString(choice.stop(), &end.stop_reason);
  }
  usage_.completion_tokens += UsageOf(choice).completion_tokens;
  if (!spec_.stream) {
    bodies_[index].end = end;
  } else if (!responder_->Write(chunks_->End(static_cast<int32_t>(index), end, UsageOf(choice)))) {
    OnGone();
  }
}

// After a change of the group's layout the text may differ from what it would have been: what says how it was computed
// changes with it.
void Generation::TakeCounts(const GenerateUpdate& update) {
  preemptions_ = update.preemptions;
  if (update.reforms == reforms_) return;
  reforms_ = update.reforms;
  if (const auto model = context_.engine->Model()) head_.system_fingerprint = model->system_fingerprint;
  if (spec_.stream) chunks_.emplace(head_, spec_.include_usage, spec_.continuous_usage);
}

std::string Generation::LogprobsOf(const std::vector<ScoredToken>& tokens) const {
  if (!spec_.logprobs.has_value()) return "null";
  std::string out;
  const LogprobFormat format{model_->tokenizer.get(), spec_.tokens_as_ids, *spec_.logprobs};
  if (spec_.chat) {
    AppendChatLogprobs(tokens, format, &out);
  } else {
    AppendCompletionLogprobs(tokens, format, &out);
  }
  return out;
}

void Generation::Deliver(size_t index) {
  Choice::Piece piece = choices_[index].Take();
  if (!spec_.stream) {
    bodies_[index].text += piece.text;
    std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(scored_[index]));
    return;
  }
  bool alive = BeginStream();
  if (alive && (!piece.text.empty() || !piece.tokens.empty())) {
    alive = responder_->Write(chunks_->Text(static_cast<int32_t>(index), piece.text,
                                            piece.tokens.empty() ? "null" : LogprobsOf(piece.tokens),
                                            UsageOf(choices_[index])));
  }
  if (!alive) OnGone();
}

// With the first sign of life. False: the client is gone.
bool Generation::BeginStream() {
  if (std::exchange(stream_begun_, true)) return true;
  responder_->BeginStream();
  bool alive = true;
  for (int32_t i = 0; spec_.chat && i < spec_.n && alive; ++i) {
    alive = responder_->Write(chunks_->Role(i, {usage_.prompt_tokens, 0}));
  }
  return alive;
}

void Generation::FinishIfDone() {
  if (done_ || !std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.done; })) return;
  done_ = true;
  if (!spec_.stream) {
    std::string prompt_logprobs;
    if (spec_.prompt_logprobs.has_value()) {
      AppendPromptLogprobs(prompt_logprobs_, {model_->tokenizer.get(), false, *spec_.prompt_logprobs},
                           &prompt_logprobs);
    }
    for (size_t i = 0; i < bodies_.size(); ++i) bodies_[i].logprobs = LogprobsOf(scored_[i]);
    Response response;
    response.body = AnswerBody(head_, bodies_, prompt_logprobs, usage_);
    response.headers.emplace_back("X-Shoal-Preemptions", std::to_string(preemptions_));
    response.headers.emplace_back("X-Shoal-Reforms", std::to_string(reforms_));
    return responder_->Respond(std::move(response));
  }
  if (spec_.include_usage) responder_->Write(chunks_->FinalUsage(usage_));
  responder_->Write(ChunkWriter::Done());
  responder_->End();
}

// Before the stream has begun (by its first token or sign of life): a plain answer with the true status. After it: an
// error event, and the end without [DONE].
void Generation::Fail(const ApiError& error) {
  done_ = true;
  if (!stream_begun_) return RespondError(error, responder_.get());
  responder_->Write("data: " + ErrorBody(error) + "\n\n");
  responder_->End();
}

// The client went, or reads too slowly. Comes once or twice.
void Generation::OnGone() {
  if (done_) return;
  done_ = true;
  if (submitted_) context_.engine->Cancel(id_, core::CancelCause::kDisconnect);
}

// It waits in the queue, or its prompt is long. From here on the status is 200.
void Generation::OnIdle() {
  if (done_) return;
  if (!BeginStream() || !responder_->Write(ChunkWriter::KeepAlive())) OnGone();
}

void Generation::Measure(const GenerateUpdate& update) {
  int32_t tokens = 0;
  for (const ChoiceUpdate& choice : update.choices) tokens += static_cast<int32_t>(choice.tokens.size());
  if (tokens == 0) return;
  const TimeNs now = RealClock().Now();
  if (last_tokens_ == 0) {
    context_.metrics->OnFirstToken(now - arrived_);
    context_.metrics->OnTokens(tokens, 0);
  } else {
    context_.metrics->OnTokens(tokens, now - last_tokens_);
  }
  last_tokens_ = now;
}

}  // namespace shoal::http
