#include "coordinator/http/generation.h"

#include <time.h>

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
  detokenizer_.emplace(model_->tokenizer, !spec_.skip_special_tokens);
  stops_.emplace(spec_.stop, spec_.include_stop);

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
  std::string text;
  const bool stopped = PushTokens(update, &text);
  if (stopped) {
    context_.engine->Cancel(id_, core::CancelCause::kStopString);
  } else if (update.finished) {
    if (update.reason == core::FinishReason::kError) return Fail(FromStatus(update.error, update.retry_after_s));
    if (update.reason == core::FinishReason::kCancelled) {
      return Fail(FromStatus(absl::UnavailableError("the server ended this request"), update.retry_after_s));
    }
    text += stops_->Finish();  // a character that has begun and not ended is dropped
  }
  if (!update.tokens.empty() || update.finished) Deliver(text);
  if (done_) return;
  if (!stopped && !update.finished) return;
  AnswerEnd end;
  end.finish_reason = !stopped && update.reason == core::FinishReason::kLength ? "length" : "stop";
  if (stopped) {
    end.stop_reason.clear();
    AppendJsonString(stop_, &end.stop_reason);
  }
  Finish(end);
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

// Text that the tokens complete and that may be shown. True when a stop string ended the answer: what comes after it is
// neither shown nor counted.
bool Generation::PushTokens(const GenerateUpdate& update, std::string* text) {
  for (const int32_t token : update.tokens) {
    ++usage_.completion_tokens;
    const text::StopMatcher::Output out = stops_->Push(detokenizer_->Push(token));
    *text += out.text;
    if (out.stopped) {
      stop_ = spec_.stop[static_cast<size_t>(out.stop_index)];
      return true;
    }
  }
  return false;
}

void Generation::Deliver(const std::string& text) {
  if (!spec_.stream) {
    text_ += text;
    return;
  }
  bool alive = true;
  if (!stream_begun_) {
    stream_begun_ = true;
    responder_->BeginStream();
    if (spec_.chat) alive = responder_->Write(chunks_->Role(usage_));
  }
  if (alive && !text.empty()) alive = responder_->Write(chunks_->Text(text, usage_));
  if (!alive) OnGone();
}

void Generation::Finish(const AnswerEnd& end) {
  done_ = true;
  if (!spec_.stream) {
    Response response;
    response.body = AnswerBody(head_, text_, end, usage_);
    response.headers.emplace_back("X-Shoal-Preemptions", std::to_string(preemptions_));
    response.headers.emplace_back("X-Shoal-Reforms", std::to_string(reforms_));
    return responder_->Respond(std::move(response));
  }
  responder_->Write(chunks_->End(end, usage_));
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
  Deliver({});
  if (!done_ && !responder_->Write(ChunkWriter::KeepAlive())) OnGone();
}

void Generation::Measure(const GenerateUpdate& update) {
  if (update.tokens.empty()) return;
  const TimeNs now = RealClock().Now();
  const int32_t tokens = static_cast<int32_t>(update.tokens.size());
  if (last_tokens_ == 0) {
    context_.metrics->OnFirstToken(now - arrived_);
    context_.metrics->OnTokens(tokens, 0);
  } else {
    context_.metrics->OnTokens(tokens, now - last_tokens_);
  }
  last_tokens_ = now;
}

}  // namespace shoal::http
