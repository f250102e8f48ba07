#include "tools/sim/record.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/plan/wire.h"
#include "coordinator/core/report.h"
#include "tools/sim/null_model.h"

namespace shoal::sim {
namespace {

class Hasher {
 public:
  explicit Hasher(uint64_t hash) : hash_(hash) {}
  void Name(const char*) {}
  void Number(const char*, int64_t x) { hash_ = Fold(hash_, static_cast<uint64_t>(x)); }
  void Text(const char*, std::string_view text) {
    for (const char c : text) hash_ = Fold(hash_, static_cast<unsigned char>(c));
    hash_ = Fold(hash_, 0x100);
  }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_;
};

class Writer {
 public:
  void Name(const char* name) { text_ = name; }
  void Number(const char* name, int64_t x) { absl::StrAppend(&text_, " ", name, " ", x); }
  void Text(const char* name, std::string_view text) {
    absl::StrAppend(&text_, " ", name, " ", absl::string_view(text.data(), text.size()));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

template <typename Out>
void State(Out& out, const absl::Status& status) {
  if (!status.ok()) out.Text("error", status.ToString());
}

template <typename Out>
void Stamp(Out& out, const plan::Stamp& stamp) {
  out.Number("epoch", static_cast<int64_t>(stamp.epoch));
  out.Number("of", static_cast<int64_t>(stamp.incarnation));
  out.Number("step", static_cast<int64_t>(stamp.step));
}

template <typename Out>
void Fields(Out& out, const core::RequestArrived& e) {
  out.Name("request arrives");
  out.Number("id", static_cast<int64_t>(e.request.id));
  out.Number("prompt", static_cast<int64_t>(e.request.prompt.size()));
  out.Number("max", e.request.max_tokens);
  out.Number("choices", e.request.n);
}
template <typename Out>
void Fields(Out& out, const core::RequestCancelled& e) {
  out.Name("request cancelled");
  out.Number("id", static_cast<int64_t>(e.id));
  out.Number("cause", static_cast<int64_t>(e.cause));
  out.Number("choice", e.choice);
}
template <typename Out>
void Fields(Out& out, const core::AgentRegistered& e) {
  out.Name("agent registered");
  out.Text("id", e.info.id);
  out.Number("incarnation", static_cast<int64_t>(e.info.incarnation));
  out.Number("highest", static_cast<int64_t>(e.info.highest_epoch));
  for (const int32_t rank : e.info.held_ranks) out.Number("holds", rank);
  if (e.info.drain != plan::DrainState::kNone) out.Number("drain", static_cast<int64_t>(e.info.drain));
}
template <typename Out>
void Fields(Out& out, const core::AgentLost& e) {
  out.Name("agent lost");
  out.Text("id", e.agent);
  out.Text("since", e.reason);
}
template <typename Out>
void Fields(Out& out, const core::HeartbeatReceived& e) {
  out.Name("heartbeat");
  out.Text("of", e.heartbeat.agent);
  out.Number("epoch", static_cast<int64_t>(e.heartbeat.epoch));
}
template <typename Out>
void Fields(Out& out, const core::JoinAnswered& e) {
  out.Name("join answered");
  out.Text("by", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.epoch));
  State(out, e.reply.status());
}
template <typename Out>
void Fields(Out& out, const core::LoadAdvanced& e) {
  out.Name(e.progress.done ? "loaded" : "loading");
  out.Text("by", e.progress.agent);
  out.Number("epoch", static_cast<int64_t>(e.epoch));
  for (const plan::LoadProgress::Cache& c : e.progress.caches) out.Number("cache", static_cast<int64_t>(c.id));
  for (const plan::RankAddress& a : e.progress.addresses) out.Number("address of", a.rank);
}
template <typename Out>
void Fields(Out& out, const core::LoadFailed& e) {
  out.Name("load failed");
  out.Text("by", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.epoch));
  State(out, e.status);
}
template <typename Out>
void Fields(Out& out, const core::PreloadAdvanced& e) {
  out.Name(e.progress.done ? "preloaded" : "preloading");
  out.Text("by", e.progress.agent);
  out.Number("epoch", static_cast<int64_t>(e.epoch));
  for (const plan::JoinReply::Rank& r : e.reply.ranks) out.Number("rank", r.rank);
}
template <typename Out>
void Fields(Out& out, const core::PreloadFailed& e) {
  out.Name("preload failed");
  out.Text("by", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.epoch));
  State(out, e.status);
}
template <typename Out>
void Fields(Out& out, const core::DrainRequested& e) {
  out.Name("drain");
  out.Text("of", e.agent);
}
template <typename Out>
void Fields(Out& out, const core::StepAnswered& e) {
  out.Name("step answered");
  out.Text("by", e.agent);
  out.Number("rank", e.result.rank);
  Stamp(out, e.result.stamp);
  for (const plan::RowResult& row : e.result.rows) {
    out.Number("sequence", static_cast<int64_t>(row.id));
    for (const int32_t token : row.tokens) out.Number("token", token);
  }
  if (!e.result.error.empty()) out.Text("error", e.result.error);
}
template <typename Out>
void Fields(Out& out, const core::RankExited& e) {
  out.Name("rank exited");
  out.Text("of", e.agent);
  out.Number("rank", e.exit.rank);
  out.Number("epoch", static_cast<int64_t>(e.exit.epoch));
  out.Text("cause", e.exit.cause);
}
template <typename Out>
void Fields(Out& out, const core::ShutdownRequested&) {
  out.Name("shutdown");
}
template <typename Out>
void Fields(Out& out, const core::TimerFired&) {
  out.Name("timer");
}
template <typename Out>
void Fields(Out& out, const core::SendJoin& e) {
  out.Name("join");
  out.Text("to", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.join.epoch));
  for (const plan::RankAssignment& a : e.join.ranks) {
    if (a.agent == e.agent) out.Number("rank", a.rank);
  }
}
template <typename Out>
void Fields(Out& out, const core::SendLoad& e) {
  out.Name("load");
  out.Text("to", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.load.epoch));
  out.Number("blocks", e.load.limits.blocks);
}
template <typename Out>
void Fields(Out& out, const core::SendPreload& e) {
  out.Name("preload");
  out.Text("to", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.join.epoch));
  for (const plan::RankAssignment& a : e.join.ranks) {
    if (a.agent == e.agent) out.Number("rank", a.rank);
  }
}
template <typename Out>
void Fields(Out& out, const core::SendConnect& e) {
  out.Name("connect");
  out.Text("to", e.agent);
  out.Number("epoch", static_cast<int64_t>(e.connect.epoch));
  for (const plan::RankAddress& a : e.connect.ranks) out.Number("rank", a.rank);
}
template <typename Out>
void Fields(Out& out, const core::Report& e) {
  out.Name("report");
  out.Text("of", core::DetectionName(e.what->culprit.what));
  out.Number("rank", e.what->culprit.rank);
  out.Text("since", e.what->reason);
}
template <typename Out>
void Fields(Out& out, const core::CanaryLearned& e) {
  out.Name("canary learned");
  out.Text("of", e.known.key);
  for (const int32_t token : e.known.tokens) out.Number("token", token);
}
template <typename Out>
void Fields(Out& out, const core::SendDrain& e) {
  out.Name("drain");
  out.Text("of", e.agent);
  out.Number("state", static_cast<int64_t>(e.state));
}
template <typename Out>
void Fields(Out& out, const core::SendAbort& e) {
  out.Name("abort");
  out.Text("to", e.agent);
  out.Number("below", static_cast<int64_t>(e.epoch));
  out.Text("since", e.reason);
}
template <typename Out>
void Fields(Out& out, const core::EmitTokens& e) {
  out.Name("tokens");
  out.Number("of", static_cast<int64_t>(e.id));
  out.Number("choice", e.choice);
  for (const int32_t token : e.tokens) out.Number("token", token);
}
template <typename Out>
void Fields(Out& out, const core::EmitPromptLogprobs& e) {
  out.Name("log-probabilities of the prompt");
  out.Number("of", static_cast<int64_t>(e.id));
  for (const plan::TokenLogprobs& token : e.logprobs) out.Number("token", token.token);
}
template <typename Out>
void Fields(Out& out, const core::FinishChoice& e) {
  out.Name("choice ends");
  out.Number("of", static_cast<int64_t>(e.id));
  out.Number("choice", e.choice);
  out.Number("reason", static_cast<int64_t>(e.reason));
}
template <typename Out>
void Fields(Out& out, const core::FinishRequest& e) {
  out.Name("request ends");
  out.Number("id", static_cast<int64_t>(e.id));
  out.Number("reason", static_cast<int64_t>(e.reason));
  State(out, e.error);
}
template <typename Out>
void Fields(Out& out, const core::SetTimer& e) {
  out.Name("timer at");
  out.Number("us", e.at / kMicrosecond);
}
template <typename Out>
void Fields(Out& out, const core::LogLine& e) {
  out.Name("log:");
  out.Text("", e.text);
}
void Fields(Hasher& out, const core::SendPlan& e) {
  Stamp(out, e.stamp);
  out.Text("", e.bytes);
}
void Fields(Writer& out, const core::SendPlan& e) {
  out.Name("plan");
  Stamp(out, e.stamp);
  const absl::StatusOr<plan::StepPlan> plan = plan::DecodePlan(e.bytes);
  if (!plan.ok()) return State(out, plan.status());
  for (const plan::SequenceId id : plan->ends) out.Number("end", static_cast<int64_t>(id));
  for (const plan::SequenceStart& s : plan->starts) {
    out.Number("start", static_cast<int64_t>(s.id));
    out.Number("kv", s.kv_tokens);
  }
  for (const plan::Row& row : plan->rows) {
    out.Number("row", static_cast<int64_t>(row.id));
    out.Number("at", row.position);
    out.Number("count", row.count);
  }
}
template <typename Out, typename Other>
void Fields(Out& out, const Other&) {
  out.Name("of a kind that has no fields here");
}

template <typename Variant>
std::string ToText(const Variant& v) {
  Writer out;
  std::visit([&out](const auto& e) { Fields(out, e); }, v);
  return out.text();
}

template <typename Variant>
uint64_t ToHash(uint64_t hash, const Variant& v) {
  Hasher out(Fold(hash, v.index()));
  std::visit([&out](const auto& e) { Fields(out, e); }, v);
  return out.hash();
}

}  // namespace

std::string Describe(const core::Event& event) { return ToText(event); }
std::string Describe(const core::Effect& effect) { return ToText(effect); }
uint64_t Digest(uint64_t hash, const core::Event& event) { return ToHash(hash, event); }
uint64_t Digest(uint64_t hash, const core::Effect& effect) { return ToHash(hash, effect); }

}  // namespace shoal::sim
