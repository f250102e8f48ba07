#include "tests/http/scripted_engine.h"

#include <chrono>

#include "common/base/check.h"
#include "common/base/clock.h"

namespace shoal::http {
namespace {

class ByteTokenizer final : public text::Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, Mode mode, bool add_bos) const override {
    SHOAL_CHECK(!add_bos);
    std::vector<int32_t> ids;
    while (!text.empty()) {
      int32_t id = static_cast<uint8_t>(text.front());
      size_t used = 1;
      for (const int32_t control : {kImStart, kImEnd}) {
        if (mode == Mode::kWithControl && text.starts_with(Spelling(control))) {
          id = control;
          used = Spelling(control).size();
        }
      }
      ids.push_back(id);
      text.remove_prefix(used);
    }
    return ids;
  }
  std::string TokenBytes(int32_t id, bool show_control) const override {
    if (id >= 0 && id < 256) return std::string(1, static_cast<char>(id));
    return show_control ? std::string(Spelling(id)) : std::string();
  }
  int32_t vocab_size() const override { return kTinyVocab; }
  bool is_control(int32_t id) const override { return id >= 256; }
  int32_t TokenId(std::string_view spelling) const override {
    if (spelling == Spelling(kImStart)) return kImStart;
    return spelling == Spelling(kImEnd) ? kImEnd : -1;
  }
  std::vector<std::string> control_spellings() const override { return {"<|im_start|>", "<|im_end|>"}; }

 private:
  static std::string_view Spelling(int32_t id) {
    return id == kImStart ? "<|im_start|>" : id == kImEnd ? "<|im_end|>" : "";
  }
};

}  // namespace

std::shared_ptr<const text::Tokenizer> TinyTokenizer() { return std::make_shared<ByteTokenizer>(); }

std::shared_ptr<const text::ChatTemplate> TinyChatTemplate() {
  constexpr char kSource[] =
      "{% for m in messages %}{% if m.role == 'tool' and not m.tool_call_id %}"
      "{{ raise_exception('tool messages need a tool_call_id') }}{% endif %}"
      "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ suffix }}";
  auto made = text::ChatTemplate::Create(kSource, "", "<|im_end|>", TinyTokenizer()->control_spellings());
  SHOAL_CHECK(made.ok());
  return *made;
}

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

std::string BytesToText(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += TinyTokenizer()->TokenBytes(id, true);
  return text;
}

ScriptedEngine::ScriptedEngine() { model_ = std::make_shared<ServedModel>(DefaultModel()); }

ServedModel ScriptedEngine::DefaultModel() const {
  ServedModel model;
  model.names = {"tiny", "org/tiny"};
  model.created = 1700000000;
  model.root = "/models/tiny";
  model.max_model_len = 4096;
  model.max_num_seqs = 8;
  model.vocab = kTinyVocab;
  model.eos_tokens = {kImEnd};
  model.tokenizer = TinyTokenizer();
  model.chat_template = TinyChatTemplate();
  model.system_fingerprint = "fp_test";
  return model;
}

std::shared_ptr<const ServedModel> ScriptedEngine::Model() const {
  MutexLock lock(mutex_);
  return model_;
}

void ScriptedEngine::SetModel(std::shared_ptr<const ServedModel> model) {
  MutexLock lock(mutex_);
  model_ = std::move(model);
}

void ScriptedEngine::SetReady(bool ready) {
  MutexLock lock(mutex_);
  ready_ = ready;
}

bool ScriptedEngine::Ready() const {
  MutexLock lock(mutex_);
  return ready_;
}

core::ClusterState ScriptedEngine::Cluster() const {
  core::ClusterState state{};
  state.phase = core::ClusterState::Phase::kReady;
  state.epoch = 3;
  state.numerics_id = "fp_test";
  state.transport = "gloo";
  state.kv_blocks = 100;
  state.kv_blocks_free = 75;
  state.block_size = 16;
  state.running = 2;
  state.preemptions = 7;
  state.resumed = 3;
  state.stale[static_cast<size_t>(plan::StalePlace::kAnswer)] = 6;
  state.stale[static_cast<size_t>(plan::StalePlace::kReply)] = 3;
  state.recomputed_tokens = 41;
  state.poisoned = 1;
  state.canary_failures = 5;
  state.mismatches = {{1, 6}};
  state.reforms = 1;
  state.layout = {1, 2};
  state.asked = {2, 2};
  state.prompt_tokens = 2;
  core::ClusterState::Rank rank{};
  rank.rank = 1;
  rank.tp_index = 1;
  rank.agent = "agent-a";
  rank.hostname = "host-a";
  rank.status.pid = 4711;
  rank.status.state = plan::RankState::kReady;
  rank.status.comm_bytes = {{"shm", 12345}};
  rank.status.waiting_for = 0;
  rank.own_time = 1500 * kMicrosecond;
  rank.straggles = true;
  state.ranks.push_back(rank);
  core::ClusterState::Agent agent{};
  agent.info.id = "agent-a";
  agent.info.hostname = "host-a";
  agent.heartbeat_age = 250 * kMillisecond;
  state.agents.push_back(agent);
  return state;
}

void ScriptedEngine::DrainAgent(const plan::AgentId& agent) {
  MutexLock lock(mutex_);
  drained_.push_back(agent);
}

std::vector<plan::AgentId> ScriptedEngine::drained() const {
  MutexLock lock(mutex_);
  return drained_;
}

void ScriptedEngine::SetReforms(core::RequestId id, int32_t reforms) {
  MutexLock lock(mutex_);
  stats_[id].reforms = reforms;
}

core::RequestId ScriptedEngine::Submit(core::GenerateRequest request, std::function<void(GenerateUpdate)> on_update) {
  MutexLock lock(mutex_);
  request.id = next_id_++;
  core::RequestStats& stats = stats_[request.id];
  stats.preemptions = 2;
  open_[request.id] = request.n;
  stats.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  stats.arrived = request.arrived;
  stats.first_scheduled = RealClock().Now();
  sinks_[request.id] = std::move(on_update);
  requests_.push_back(request);
  changed_.NotifyAll();
  return request.id;
}

void ScriptedEngine::Cancel(core::RequestId id, core::CancelCause cause, int32_t choice) {
  if (choice >= 0) {
    MutexLock lock(mutex_);
    if (--open_[id] > 0) return;
  }
  GenerateUpdate last;
  last.finished = true;
  last.reason = cause == core::CancelCause::kStopString ? core::FinishReason::kStop : core::FinishReason::kCancelled;
  Update(id, std::move(last));
  MutexLock lock(mutex_);
  cancelled_[id] = cause;
  changed_.NotifyAll();
}

core::GenerateRequest ScriptedEngine::AwaitRequest() {
  MutexLock lock(mutex_);
  // A request that was refused instead never comes: better an abort than a hang.
  while (requests_.size() <= awaited_) SHOAL_CHECK(changed_.WaitFor(mutex_, std::chrono::seconds(20)));
  return requests_[awaited_++];
}

core::CancelCause ScriptedEngine::AwaitCancel(core::RequestId id) {
  MutexLock lock(mutex_);
  while (cancelled_.count(id) == 0) SHOAL_CHECK(changed_.WaitFor(mutex_, std::chrono::seconds(20)));
  return cancelled_[id];
}

int ScriptedEngine::submitted() const {
  MutexLock lock(mutex_);
  return static_cast<int>(requests_.size());
}

void ScriptedEngine::Update(core::RequestId id, GenerateUpdate update) {
  std::function<void(GenerateUpdate)> sink;
  {
    MutexLock lock(mutex_);
    const auto found = sinks_.find(id);
    if (found == sinks_.end()) return;
    int32_t tokens = 0;
    for (const ChoiceUpdate& choice : update.choices) tokens += static_cast<int32_t>(choice.tokens.size());
    core::RequestStats& stats = stats_[id];
    const TimeNs now = RealClock().Now();
    if (stats.first_token == 0 && tokens > 0) stats.first_token = now;
    stats.output_tokens += tokens;
    stats.finished = now;
    update.preemptions = stats.preemptions;
    update.reforms = stats.reforms;
    if (update.finished) update.stats = stats;
    sink = found->second;
    if (update.finished) sinks_.erase(found);
  }
  sink(std::move(update));
}

void ScriptedEngine::Emit(core::RequestId id, std::vector<int32_t> tokens, int32_t choice,
                          std::vector<plan::TokenLogprobs> logprobs) {
  GenerateUpdate update;
  update.choices.push_back({choice, std::move(tokens), std::move(logprobs), std::nullopt});
  Update(id, std::move(update));
}

void ScriptedEngine::EmitPrompt(core::RequestId id, std::vector<plan::TokenLogprobs> logprobs) {
  GenerateUpdate update;
  update.prompt_logprobs = std::move(logprobs);
  Update(id, std::move(update));
}

void ScriptedEngine::FinishChoice(core::RequestId id, core::FinishReason reason, int32_t choice) {
  GenerateUpdate update;
  update.choices.push_back({choice, {}, {}, reason});
  Update(id, std::move(update));
}

void ScriptedEngine::Finish(core::RequestId id, core::FinishReason reason, std::vector<int32_t> last_tokens) {
  GenerateUpdate update;
  if (!last_tokens.empty()) update.choices.push_back({0, std::move(last_tokens), {}, std::nullopt});
  update.finished = true;
  update.reason = reason;
  Update(id, std::move(update));
}

void ScriptedEngine::FailWith(core::RequestId id, absl::Status error, int32_t retry_after_s) {
  GenerateUpdate update;
  update.finished = true;
  update.reason = core::FinishReason::kError;
  update.error = std::move(error);
  update.retry_after_s = retry_after_s;
  Update(id, std::move(update));
}

}  // namespace shoal::http
