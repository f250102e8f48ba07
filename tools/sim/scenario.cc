// Tested by: tests/sim/run_test.cc
#include "tools/sim/scenario.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"

namespace shoal::sim {
namespace {

constexpr int32_t kNotFinite = 5, kDeadly = 6;  // first tokens of prompts

struct Kind {
  FaultKind kind;
  const char* name;
  int weight;
  DurationNs shortest, longest;
  int late_weight = 0;  // among those that are drawn after all others
};
constexpr std::array<Kind, kFaultKinds> kKinds = {{
    {FaultKind::kKillRank, "kill rank", 14, 0, 0},
    {FaultKind::kStopRank, "stop rank", 4, 0, 0},
    {FaultKind::kCrashRank, "crash rank", 4, 0, 0},
    {FaultKind::kErrorAnswer, "error answer", 3, 0, 0},
    {FaultKind::kKillAgent, "kill agent", 6, 10 * kMillisecond, 10 * kSecond},
    {FaultKind::kLoseHost, "lose host", 3, 10 * kMillisecond, 10 * kSecond},
    {FaultKind::kFreezeAgent, "freeze agent", 6, 10 * kMillisecond, 20 * kSecond},
    {FaultKind::kFreezeHost, "freeze host", 3, 10 * kMillisecond, 20 * kSecond},
    {FaultKind::kCut, "cut", 5, 10 * kMillisecond, 25 * kSecond},
    {FaultKind::kCutToAgent, "cut to agent", 4, 10 * kMillisecond, 25 * kSecond},
    {FaultKind::kCutToCoordinator, "cut to coordinator", 4, 10 * kMillisecond, 25 * kSecond},
    {FaultKind::kReset, "reset", 3, 0, 0},
    {FaultKind::kRefuseJoin, "refuse join", 3, 10 * kMillisecond, 3 * kSecond},
    {FaultKind::kRefuseLoad, "refuse load", 3, 10 * kMillisecond, 3 * kSecond},
    {FaultKind::kFreezeCoordinator, "freeze coordinator", 8, 10 * kMillisecond, 20 * kSecond},
    {FaultKind::kCrashCoordinator, "crash coordinator", 6, 10 * kMillisecond, 3 * kSecond},
    {FaultKind::kGhosts, "ghosts", 6, 0, 0},
    {FaultKind::kSlowNetwork, "slow network", 4, 10 * kMillisecond, 5 * kSecond},
    {FaultKind::kDisconnect, "disconnect", 5, 0, 0},
    {FaultKind::kShutdown, "shutdown", 0, 0, 0},
    {FaultKind::kDrain, "drain", 0, 10 * kMillisecond, 20 * kSecond, 6},
    {FaultKind::kNoMemory, "no memory", 0, 10 * kMillisecond, 5 * kSecond, 3},
    {FaultKind::kClockJump, "clock jump", 0, 10 * kMillisecond, 20 * kSecond, 3},
    {FaultKind::kRepeatAnswers, "repeat answers", 0, 10 * kMillisecond, 5 * kSecond, 2},
    {FaultKind::kOtherStates, "other states", 0, 10 * kMillisecond, 5 * kSecond, 3},
    {FaultKind::kComputeWrongly, "compute wrongly", 0, 10 * kMillisecond, 10 * kSecond, 2},
    {FaultKind::kCrashAtWrite, "crash at a write", 0, 10 * kMillisecond, 3 * kSecond, 0},
}};

class Maker {
 public:
  explicit Maker(uint64_t seed) { s_.seed = seed; }

  Scenario Make() {
    Shape();
    Times();
    Faults();
    Requests();
    Later();
    return std::move(s_);
  }

 private:
  uint64_t Bits() { return RandomBits(s_.seed, 2, ++draws_); }
  int Draw(int low, int high) { return low + static_cast<int>(Bits() % static_cast<uint64_t>(high - low + 1)); }
  bool Chance(int percent) { return Draw(0, 99) < percent; }
  // As many short ones as long ones, over all magnitudes.
  DurationNs Spread(DurationNs shortest, DurationNs longest) {
    if (longest <= shortest) return shortest;
    DurationNs top = shortest;
    for (int doublings = Draw(0, 12); doublings > 0 && top < longest; --doublings) top *= 2;
    top = std::min(top, longest);
    return shortest + static_cast<DurationNs>(Bits() % static_cast<uint64_t>(top - shortest + 1));
  }

  void Shape() {
    core::CoreOptions& o = s_.options;
    o = TestOptions();
    o.graphs = s_.seed % 2 == 1;
    o.tp = Draw(1, 3);
    o.pp = Draw(1, 3);
    o.max_num_seqs = Draw(1, 40);
    o.max_num_batched_tokens = Draw(4, 128);
    o.engine.block_size = Draw(1, 8);
    o.max_model_len = Draw(20, 90);
    s_.small_cache = Chance(40);
    const int32_t longest = plan::BlocksFor(o.max_model_len, o.engine.block_size);
    if (s_.small_cache) o.kv_blocks = longest + Draw(0, 2 * longest);
    if (Chance(10)) o.max_queued_requests = Draw(0, 4);
    const int world = o.tp * o.pp, agents = Draw(1, std::min(4, world));
    o.nnodes = agents;
    const int slots = (world + agents - 1) / agents + Draw(0, 1);
    const int spares = Chance(40) ? Draw(1, 2) : 0;
    for (int i = 0; i < agents + spares; ++i) s_.agents.push_back({.id = absl::StrCat("a", i), .slots = slots});
  }

  void Times() {
    ClusterTimes& t = s_.times;
    t.net_max = t.net_min + Spread(100 * kMicrosecond, 5 * kMillisecond);
    t.step_min = Spread(200 * kMicrosecond, 3 * kMillisecond);
    t.step_max = t.step_min + Spread(100 * kMicrosecond, 5 * kMillisecond);
    t.read_max = 1 + Spread(10 * kMillisecond, 400 * kMillisecond);
    if (Chance(30)) t.timer_late = Spread(kMillisecond, 2 * kSecond);
    if (!Chance(30)) return;
    t.spike_permille = Draw(1, 20);
    t.spike = Spread(5 * kMillisecond, 500 * kMillisecond);
  }

  const Kind& PickKind(int Kind::*weight = &Kind::weight) {
    int total = 0;
    for (const Kind& k : kKinds) total += k.*weight;
    int at = Draw(0, total - 1);
    for (const Kind& k : kKinds) {
      if (at < k.*weight) return k;
      at -= k.*weight;
    }
    return kKinds[0];
  }

  void Faults() {
    s_.cold = Chance(20);
    const int count = Draw(1, 10);
    // Runs with one kind of fault only show what that kind alone must not do.
    const bool pure = Chance(25);
    const Kind& only = PickKind();
    TimeNs at = Spread(kMillisecond, 500 * kMillisecond);
    for (int i = 0; i < count; ++i) {
      const Kind& k = pure ? only : PickKind();
      s_.faults.push_back({k.kind, at, Spread(k.shortest, k.longest), Bits()});
      const int gap = Draw(0, 99);
      at += gap < 40   ? Spread(1, 60 * kMillisecond)
            : gap < 85 ? Spread(kMillisecond, kSecond)
                       : Spread(kSecond, 15 * kSecond);
    }
    if (Chance(8)) s_.faults.push_back({FaultKind::kShutdown, at, 0, 0});
  }

  // Most requests are there when a fault comes.
  void Requests() {
    if (Chance(8)) s_.not_finite = kNotFinite;
    if (Chance(4)) s_.deadly = kDeadly;
    Some(0, Draw(1, 4));
    for (const Fault& fault : s_.faults) {
      Some(fault.at, Draw(1, 4));
      if (fault.lasts > 0 && Chance(50)) Some(fault.at + fault.lasts / 2, Draw(1, 3));
    }
  }

  void Some(TimeNs at, int count) {
    for (int i = 0; i < count; ++i) Request(++last_id_, std::max<TimeNs>(0, at - Spread(1, 150 * kMillisecond)));
  }

  // What came to scenarios later is drawn last, so that the rest of a seed is what it was before.
  void Later() {
    core::CoreOptions& o = s_.options;
    const bool canary = Chance(50), checksums = Chance(30);
    const DurationNs interval = Spread(50 * kMillisecond, 5 * kSecond);
    if (canary && s_.deadly < 0) o.canary_interval = interval;  // its prompt begins as a deadly one does
    if (checksums) o.checksum_interval = Draw(0, 8);
    const int64_t span = s_.faults.back().at + 1;
    const int count = Chance(60) ? Draw(1, 3) : 0;
    for (int i = 0; i < count; ++i) {
      const Kind& k = PickKind(&Kind::late_weight);
      const auto at = static_cast<TimeNs>(Bits() % static_cast<uint64_t>(span));
      s_.faults.push_back({k.kind, at, Spread(k.shortest, k.longest), Bits()});
      Some(at, Draw(1, 3));
    }
    s_.keyed = Chance(30);
    if (s_.keyed) Keys(span);
    if (Chance(25)) o.replace_timeout = Spread(500 * kMillisecond, 20 * kSecond);
    if (Chance(50)) Ask();
    std::stable_sort(s_.faults.begin(), s_.faults.end(), [](const Fault& a, const Fault& b) { return a.at < b.at; });
  }

  // Some requests ask for more than tokens of one answer.
  void Ask() {
    for (Load& load : s_.load) {
      core::GenerateRequest& r = load.request;
      if (load.key != 0 || !Chance(50)) continue;  // who asks again with a key asks for the same
      const int most = std::min(s_.options.max_num_seqs, s_.options.max_num_batched_tokens);
      if (const int n = 1 << Draw(0, 2); n <= most) r.n = n;
      if (Chance(30)) Shape(&r.sampling);
      if (Chance(30)) r.sampling.logprobs = Draw(0, 3);
      if (Chance(20)) r.sampling.prompt_logprobs = Draw(0, 3);
      load.stop_string.clear();  // it was cut from another answer
      StopString(&load, 15);
    }
  }

  void Shape(plan::SamplingParams* sampling) {
    if (Chance(50)) sampling->repetition_penalty = 1.25f;
    if (Chance(50)) sampling->presence_penalty = 0.5f;
    if (Chance(50)) sampling->frequency_penalty = -0.5f;
    if (Chance(30)) sampling->biases = {{Draw(0, 40), 2}, {Draw(41, kVocab - 1), -100}};
    if (Chance(20)) sampling->allowed_tokens = {1, 5, 40, Draw(41, kVocab - 1)};
    if (Chance(20)) sampling->bad_words = {{Draw(0, kVocab - 1), Draw(0, kVocab - 1)}};
    if (Chance(30)) {
      sampling->min_tokens = Draw(1, 8);
      sampling->end_tokens = {Draw(0, 40), Draw(41, kVocab - 1)};
    }
  }

  void StopString(Load* load, int percent) {
    core::FinishReason reason;
    const std::vector<int32_t> alone = LoneRun(load->request, &reason);
    if (!Chance(percent) || alone.size() < 2) return;
    const auto from = alone.begin() + Draw(0, static_cast<int>(alone.size()) - 2);
    load->stop_string.assign(from, from + 2);
  }

  // Requests with keys, most of them asked for by two clients, and ends of the coordinator while it writes about them.
  void Keys(int64_t span) {
    const Kind& crash = kKinds[static_cast<size_t>(FaultKind::kCrashAtWrite)];
    const auto some_time = [&] { return static_cast<TimeNs>(Bits() % static_cast<uint64_t>(span)); };
    for (int crashes = Draw(0, 3); crashes > 0; --crashes) {
      s_.faults.push_back({crash.kind, some_time(), Spread(crash.shortest, crash.longest), Bits()});
    }
    for (int key = Draw(2, 6); key > 0; --key) {
      const size_t near = Bits() % s_.faults.size();
      Some(s_.faults[near].at + Spread(1, 50 * kMillisecond), 1);
      Load& load = s_.load.back();
      load.key = key;
      load.cancelled_after = 0;
      load.stop_string.clear();
      load.insists = Chance(80);
      if (!Chance(70)) continue;
      Load again = load;
      again.at = Chance(50) ? load.at + Spread(1, 20 * kMillisecond) : some_time();
      s_.load.push_back(std::move(again));
    }
  }

  void Request(core::RequestId id, TimeNs at) {
    Load load;
    load.at = at;
    core::GenerateRequest& r = load.request;
    r.id = id;
    const int prompt = Draw(1, Chance(30) ? s_.options.max_model_len - 1 : std::min(16, s_.options.max_model_len - 1));
    for (int i = 0; i < prompt; ++i) r.prompt.push_back(static_cast<int32_t>(Bits() % kVocab));
    while (r.prompt[0] == kNotFinite || r.prompt[0] == kDeadly) r.prompt[0] = static_cast<int32_t>(Bits() % kVocab);
    if (Chance(10)) r.prompt[0] = Chance(50) ? kNotFinite : kDeadly;
    r.max_tokens = Draw(1, s_.options.max_model_len - prompt);
    r.sampling.temperature = static_cast<float>(Draw(0, 1));
    r.sampling.seed = Bits();
    if (Chance(30)) r.stop_tokens = {Draw(0, kVocab - 1), Draw(0, kVocab - 1)};
    if (Chance(10)) load.cancelled_after = Spread(kMillisecond, 2 * kSecond);
    StopString(&load, 15);
    s_.load.push_back(std::move(load));
  }

  Scenario s_;
  uint64_t draws_ = 0;
  core::RequestId last_id_ = 0;
};

}  // namespace

std::string_view FaultName(FaultKind kind) { return kKinds[static_cast<size_t>(kind)].name; }

Scenario MakeScenario(uint64_t seed) { return Maker(seed).Make(); }

std::string Describe(const Scenario& s) {
  const core::CoreOptions& o = s.options;
  std::string text = absl::StrCat(
      "seed ", s.seed, ": tp ", o.tp, " x pp ", o.pp, " on ", o.nnodes, " agents and ", s.agents.size() - o.nnodes,
      " spares of ", s.agents[0].slots, " slots; ", o.max_num_seqs, " sequences, ", o.max_num_batched_tokens,
      " tokens a plan, blocks of ", o.engine.block_size, ", ", o.kv_blocks, " of them, contexts of ", o.max_model_len,
      ", queue of ", o.max_queued_requests, ", a canary every ", o.canary_interval / kMillisecond,
      " ms, checksums every ", o.checksum_interval, ", fewer ranks after ", o.replace_timeout / kMillisecond, " ms; ",
      s.load.size(), " requests; faults", s.cold ? " from the start:" : ":");
  for (const Fault& f : s.faults) {
    absl::StrAppend(&text, "\n  ", f.at / kMillisecond, " ms: ", std::string(FaultName(f.kind)), " for ",
                    f.lasts / kMillisecond, " ms");
  }
  return text;
}

}  // namespace shoal::sim
