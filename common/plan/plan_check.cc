#include "common/plan/plan_check.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::plan {
namespace {

// Finaliser of splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA'14): the same
// in every process, unlike absl's seeded hash.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t HashOf(SequenceId id, const MirroredSequence& s, uint64_t table_hash) {
  const uint64_t sizes = (static_cast<uint64_t>(s.length) << 32) | static_cast<uint32_t>(s.computed);
  return Mix(Mix(Mix(id) ^ sizes) ^ table_hash);
}

template <typename... Args>
absl::Status Refuse(SequenceId id, const Args&... rule) {
  return absl::InvalidArgumentError(absl::StrCat("sequence ", id, ": ", rule...));
}

bool Within(float x, float low, float high) { return std::isfinite(x) && x >= low && x <= high; }

// Far beyond what anybody asks for (vLLM: repetition above 0, the others in [-2, 2]), and near enough that no logit of
// a sane model becomes infinite by them.
constexpr float kLeastRepetition = 0.01f, kMostRepetition = 100, kMostPenalty = 100, kMostBias = 1e6f;

// Their lengths and order.
absl::Status CheckLists(const SamplingParams& s) {
  const auto refuse = [](const char* rule) { return absl::InvalidArgumentError(rule); };
  const auto ascending = [](const auto& list, const auto& id) {
    return std::adjacent_find(list.begin(), list.end(), [&](const auto& a, const auto& b) { return id(a) >= id(b); }) ==
           list.end();
  };
  const auto same = [](int32_t id) { return id; };
  if (s.end_tokens.size() > kMaxEndTokens) return refuse("end_tokens are more than 1024");
  if (!ascending(s.end_tokens, same)) return refuse("end_tokens are not ascending");
  if (s.allowed_tokens.size() > kMaxAllowedTokens) return refuse("allowed_tokens are more than 16384");
  if (!ascending(s.allowed_tokens, same)) return refuse("allowed_tokens are not ascending");
  if (s.biases.size() > kMaxTokenBiases) return refuse("biases are more than 1024");
  if (!ascending(s.biases, [](const TokenBias& b) { return b.token; }))
    return refuse("biases are not by ascending token");
  for (const TokenBias& b : s.biases) {
    if (!Within(b.bias, -kMostBias, kMostBias)) return refuse("a bias of biases is not in [-1000000, 1000000]");
  }
  if (s.bad_words.size() > kMaxBadWords) return refuse("bad_words are more than 256");
  for (const std::vector<int32_t>& word : s.bad_words) {
    if (word.empty() || word.size() > kMaxBadWordTokens) return refuse("a word of bad_words is not of 1 to 16 tokens");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckLimits(const MirrorLimits& limits) {
  const auto refuse = [](const char* name, int64_t value) {
    return absl::InvalidArgumentError(absl::StrCat("limits: ", name, " is ", value));
  };
  if (limits.blocks < 1 || limits.blocks > kMaxBlocks) return refuse("blocks", limits.blocks);
  if (limits.block_size < 1 || limits.block_size > 4096) return refuse("block_size", limits.block_size);
  if (limits.max_sequences < 1) return refuse("max_sequences", limits.max_sequences);
  if (limits.max_tokens < 1) return refuse("max_tokens", limits.max_tokens);
  if (limits.max_model_len < 1) return refuse("max_model_len", limits.max_model_len);
  if (limits.vocab < 1) return refuse("vocab", limits.vocab);
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingParams& s) {
  const auto refuse = [](const char* rule) { return absl::InvalidArgumentError(rule); };
  if (!Within(s.temperature, 0, 1e4f)) return refuse("temperature is not in [0, 10000]");
  if (s.top_k < 0) return refuse("top_k is negative");
  if (!Within(s.top_p, 0, 1) || s.top_p == 0) return refuse("top_p is not in (0, 1]");
  if (!Within(s.min_p, 0, 1)) return refuse("min_p is not in [0, 1]");
  if (!Within(s.repetition_penalty, kLeastRepetition, kMostRepetition)) {
    return refuse("repetition_penalty is not in [0.01, 100]");
  }
  if (!Within(s.presence_penalty, -kMostPenalty, kMostPenalty)) return refuse("presence_penalty is not in [-100, 100]");
  if (!Within(s.frequency_penalty, -kMostPenalty, kMostPenalty)) {
    return refuse("frequency_penalty is not in [-100, 100]");
  }
  if (s.min_tokens < 0) return refuse("min_tokens is negative");
  if (s.logprobs < -1 || s.logprobs > kMaxTopLogprobs) return refuse("logprobs is not in [-1, 20]");
  if (s.prompt_logprobs < -1 || s.prompt_logprobs > kMaxTopLogprobs)
    return refuse("prompt_logprobs is not in [-1, 20]");
  if (s.grammar != 0) return refuse("grammars are not supported yet");
  return CheckLists(s);
}

absl::Status CheckSampling(const SamplingParams& s, int32_t vocab) {
  SHOAL_RETURN_IF_ERROR(CheckSampling(s));
  const auto within = [vocab](const char* name, const auto& ids) {
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": token ", id, " is not in the vocabulary"));
      }
    }
    return absl::OkStatus();
  };
  SHOAL_RETURN_IF_ERROR(within("end_tokens", s.end_tokens));
  SHOAL_RETURN_IF_ERROR(within("allowed_tokens", s.allowed_tokens));
  for (const std::vector<int32_t>& word : s.bad_words) SHOAL_RETURN_IF_ERROR(within("bad_words", word));
  for (const TokenBias& bias : s.biases) SHOAL_RETURN_IF_ERROR(within("biases", std::array{bias.token}));
  return absl::OkStatus();
}

PlanMirror::PlanMirror(const MirrorLimits& limits) : limits_(limits) {
  SHOAL_CHECK(limits.block_size > 0 && limits.blocks >= 0 && limits.blocks <= kMaxBlocks);
  refs_.resize(limits.blocks, 0);
  gained_.resize(limits.blocks, 0);
  fresh_.resize(limits.blocks, 0);
}

absl::Status PlanMirror::Apply(const StepPlan& plan, bool check_digest) {
  ++attempt_;
  ended_ = 0;
  touched_.clear();
  ref_changes_.clear();
  const uint64_t digest = digest_;
  absl::Status status = Try(plan, check_digest);
  if (!status.ok()) {
    Rollback(digest);
    return status;
  }
  last_step_ = plan.stamp.step;
  Commit();
  return status;
}

absl::Status PlanMirror::CheckBucket(const StepPlan& plan) const {
  const int32_t smallest = plan.bucket == 0 ? 0 : BucketOf(plan, limits_);
  const int32_t most = std::min(limits_.max_tokens, limits_.max_sequences);
  if (plan.bucket == 0 || (smallest != 0 && plan.bucket >= smallest && plan.bucket <= most)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("plan ", plan.stamp.step, " of ", plan.rows.size(), " rows cannot be one of bucket ", plan.bucket));
}

absl::Status PlanMirror::Try(const StepPlan& plan, bool check_digest) {
  if (plan.stamp.step != last_step_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan ", plan.stamp.step, " follows plan ", last_step_, ": steps must be consecutive"));
  }
  if (plan.rows.empty()) return absl::InvalidArgumentError(absl::StrCat("plan ", plan.stamp.step, " has no rows"));
  for (SequenceId id : plan.ends) SHOAL_RETURN_IF_ERROR(End(id));
  for (const SequenceStart& start : plan.starts) SHOAL_RETURN_IF_ERROR(Start(start));
  const size_t running = sequences_.size() - static_cast<size_t>(ended_);
  if (running > static_cast<size_t>(limits_.max_sequences)) {
    return absl::InvalidArgumentError(absl::StrCat(running, " sequences, at most ", limits_.max_sequences, " may run"));
  }
  for (const BlocksAdded& added : plan.blocks_added) SHOAL_RETURN_IF_ERROR(AddBlocks(added));
  SHOAL_RETURN_IF_ERROR(CheckCopies(plan.copies));
  int64_t tokens = 0, outputs = 0;
  for (const Row& row : plan.rows) {
    SHOAL_RETURN_IF_ERROR(ApplyRow(row, plan.stamp.step));
    tokens += row.count;
    outputs += OutputCount(row);
  }
  if (outputs > limits_.max_sequences) {
    return absl::InvalidArgumentError(absl::StrCat(outputs, " outputs in one plan, at most ", limits_.max_sequences));
  }
  if (tokens > limits_.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(tokens, " tokens in one plan, at most ", limits_.max_tokens));
  }
  SHOAL_RETURN_IF_ERROR(CheckBucket(plan));
  for (Entry* entry : touched_) {
    if (entry->ended) continue;
    entry->hash = HashOf(entry->id, *entry, entry->table_hash);
    digest_ += entry->hash;
  }
  if (check_digest && digest_ != plan.mirror_digest) {
    return absl::InvalidArgumentError(absl::StrCat("plan ", plan.stamp.step, ": the mirrors differ (digest ",
                                                   absl::Hex(digest_), ", the plan says ",
                                                   absl::Hex(plan.mirror_digest), ")"));
  }
  return absl::OkStatus();
}

PlanMirror::Entry* PlanMirror::Touch(SequenceId id) {
  auto it = sequences_.find(id);
  if (it == sequences_.end()) return nullptr;
  Entry* entry = it->second.get();
  if (entry->touched != attempt_) {
    entry->touched = attempt_;
    entry->saved = {entry->length, entry->computed, entry->blocks.size(), entry->last_sample_step, entry->table_hash};
    digest_ -= entry->hash;
    touched_.push_back(entry);
  }
  return entry;
}

void PlanMirror::Ref(int32_t block, int32_t delta) {
  refs_[block] += delta;
  ref_changes_.emplace_back(block, delta);
}

absl::Status PlanMirror::End(SequenceId id) {
  Entry* entry = Touch(id);
  if (entry == nullptr) return Refuse(id, "ends, but does not run");
  if (entry->ended) return Refuse(id, "ends twice");
  entry->ended = true;
  ++ended_;
  for (int32_t block : entry->blocks) Ref(block, -1);
  return absl::OkStatus();
}

absl::Status PlanMirror::Gain(Entry& entry, int32_t block, bool may_share) {
  if (block < 0 || block >= limits_.blocks) return Refuse(entry.id, "block ", block, " does not exist");
  const bool twice =
      gained_[block] == attempt_ && std::find(entry.blocks.begin(), entry.blocks.end(), block) != entry.blocks.end();
  if (refs_[block] > 0 && (!may_share || fresh_[block] == attempt_ || twice)) {
    return Refuse(entry.id, "block ", block, " is in another table");
  }
  if (entry.blocks.size() >= static_cast<size_t>(BlocksFor(limits_.max_model_len, limits_.block_size))) {
    return Refuse(entry.id, "more blocks than ", limits_.max_model_len, " tokens need");
  }
  Ref(block, +1);
  gained_[block] = attempt_;
  if (!may_share) fresh_[block] = attempt_;
  entry.blocks.push_back(block);
  entry.table_hash = Mix(entry.table_hash ^ Mix(static_cast<uint64_t>(block) + 1));
  return absl::OkStatus();
}

absl::Status PlanMirror::Start(const SequenceStart& start) {
  const int64_t count = static_cast<int64_t>(start.tokens.size());
  if (sequences_.contains(start.id)) return Refuse(start.id, "starts, but its id is in use");
  if (count < 1 || count > limits_.max_model_len) return Refuse(start.id, "starts with ", count, " tokens");
  for (int32_t token : start.tokens) {
    if (token < 0 || token >= limits_.vocab) return Refuse(start.id, "token ", token, " is not in the vocabulary");
  }
  if (start.prompt_tokens < 1 || start.prompt_tokens > count) {
    return Refuse(start.id, start.prompt_tokens, " prompt tokens of ", count);
  }
  if (start.kv_tokens < 0 || start.kv_tokens >= count) {
    return Refuse(start.id, "KV of ", start.kv_tokens, " tokens of ", count, ": at least the last is computed");
  }
  if (BlocksFor(start.kv_tokens, limits_.block_size) > static_cast<int64_t>(start.blocks.size())) {
    return Refuse(start.id, "its blocks do not cover the KV of ", start.kv_tokens, " tokens");
  }
  if (absl::Status s = CheckSampling(start.sampling, limits_.vocab); !s.ok()) return Refuse(start.id, s.message());

  auto owned = std::make_unique<Entry>();
  Entry& entry = *owned;
  entry.id = start.id;
  entry.started = true;
  entry.touched = attempt_;
  entry.tokens = start.tokens;
  entry.start_tokens = entry.length = static_cast<int32_t>(count);
  entry.prompt_tokens = start.prompt_tokens;
  entry.computed = start.kv_tokens;
  entry.sampling = start.sampling;
  sequences_.emplace(start.id, std::move(owned));
  touched_.push_back(&entry);
  int64_t position = 0;
  for (int32_t block : start.blocks) {
    SHOAL_RETURN_IF_ERROR(Gain(entry, block, position < start.kv_tokens));
    position += limits_.block_size;
  }
  return absl::OkStatus();
}

absl::Status PlanMirror::AddBlocks(const BlocksAdded& added) {
  Entry* entry = Touch(added.id);
  if (entry == nullptr || entry->ended) return Refuse(added.id, "gets blocks, but does not run");
  if (added.blocks.empty()) return Refuse(added.id, "gets an empty list of blocks");
  for (int32_t block : added.blocks) SHOAL_RETURN_IF_ERROR(Gain(*entry, block, false));
  return absl::OkStatus();
}

absl::Status PlanMirror::CheckCopies(const std::vector<BlockCopy>& copies) const {
  const auto refuse = [](const BlockCopy& c, const char* rule) {
    return absl::InvalidArgumentError(absl::StrCat("copy of block ", c.src, " to ", c.dst, ": ", rule));
  };
  for (size_t i = 0; i < copies.size(); ++i) {
    const BlockCopy& c = copies[i];
    for (int32_t block : {c.src, c.dst}) {
      if (block < 0 || block >= limits_.blocks) return refuse(c, "no such block");
    }
    if (gained_[c.dst] != attempt_ || refs_[c.dst] != 1) return refuse(c, "no table gained the target in this plan");
    for (size_t j = 0; j < copies.size(); ++j) {
      if (copies[j].dst == c.src) return refuse(c, "the source is a target, too");
      if (j != i && copies[j].dst == c.dst) return refuse(c, "the target is named twice");
    }
  }
  return absl::OkStatus();
}

absl::Status PlanMirror::CheckRow(const Row& row, const Entry& entry) const {
  if (row.count < 1 || row.count > limits_.max_tokens) return Refuse(row.id, "a row of ", row.count, " tokens");
  if (row.adapter != 0) return Refuse(row.id, "adapters are not supported yet");
  if (row.position != entry.computed) {
    return Refuse(row.id, "a row at position ", row.position, ", but KV ends at ", entry.computed);
  }
  const int64_t end = static_cast<int64_t>(row.position) + row.count;
  switch (row.source) {
    case TokenSource::kLiteral:
      if (end > entry.start_tokens) return Refuse(row.id, "a literal row beyond the ", entry.start_tokens, " tokens");
      break;
    case TokenSource::kLastSample:
      if (row.count != 1) return Refuse(row.id, "a last-sample row of ", row.count, " tokens");
      if (entry.last_sample_step == 0) return Refuse(row.id, "a last-sample row, but nothing was sampled");
      if (end != entry.length) return Refuse(row.id, "a last-sample row that is not at the end");
      break;
    default:
      return Refuse(row.id, "this token source is not supported yet");
  }
  SHOAL_RETURN_IF_ERROR(CheckOutput(row, entry, end));
  if (BlocksFor(end, limits_.block_size) > static_cast<int64_t>(entry.blocks.size())) {
    return Refuse(row.id, "its blocks do not cover ", end, " tokens");
  }
  for (int64_t i = row.position / limits_.block_size; i * limits_.block_size < end; ++i) {
    if (refs_[entry.blocks[i]] != 1) return Refuse(row.id, "writes block ", entry.blocks[i], " that others hold");
  }
  return absl::OkStatus();
}

absl::Status PlanMirror::CheckOutput(const Row& row, const Entry& entry, int64_t end) const {
  if (row.output == RowOutput::kPooled) return Refuse(row.id, "this row output is not supported yet");
  if (Samples(row.output)) {
    if (end != entry.length) return Refuse(row.id, "samples at ", end, " of ", entry.length, " tokens");
    if (entry.length >= limits_.max_model_len) return Refuse(row.id, "longer than ", limits_.max_model_len, " tokens");
  }
  if (!TellsLogprobs(row.output)) return absl::OkStatus();
  if (row.source != TokenSource::kLiteral) return Refuse(row.id, "log-probabilities of a row that is not literal");
  if (entry.sampling.prompt_logprobs < 0) return Refuse(row.id, "log-probabilities that nobody asked for");
  if (!Samples(row.output) && end >= entry.start_tokens) {
    return Refuse(row.id, "log-probabilities of the token at ", end, ", it starts with ", entry.start_tokens);
  }
  return absl::OkStatus();
}

absl::Status PlanMirror::ApplyRow(const Row& row, uint64_t step) {
  Entry* entry = Touch(row.id);
  if (entry == nullptr || entry->ended) return Refuse(row.id, "has a row, but does not run");
  if (entry->row == attempt_) return Refuse(row.id, "has two rows");
  SHOAL_RETURN_IF_ERROR(CheckRow(row, *entry));
  entry->row = attempt_;
  entry->computed = row.position + row.count;
  if (Samples(row.output)) {
    ++entry->length;
    entry->last_sample_step = step;
  }
  return absl::OkStatus();
}

void PlanMirror::Commit() {
  for (Entry* entry : touched_) {
    entry->started = false;
    if (entry->ended) sequences_.erase(SequenceId{entry->id});
  }
}

void PlanMirror::Rollback(uint64_t digest) {
  digest_ = digest;
  for (const auto& [block, delta] : ref_changes_) refs_[block] -= delta;
  for (Entry* entry : touched_) {
    if (entry->started) {
      sequences_.erase(SequenceId{entry->id});
      continue;
    }
    entry->ended = false;
    entry->length = entry->saved.length;
    entry->computed = entry->saved.computed;
    entry->blocks.resize(entry->saved.blocks);
    entry->last_sample_step = entry->saved.last_sample_step;
    entry->table_hash = entry->saved.table_hash;
    entry->hash = HashOf(entry->id, *entry, entry->table_hash);
  }
}

void PlanMirror::RecordSample(SequenceId id, int32_t token) {
  auto it = sequences_.find(id);
  if (it != sequences_.end()) it->second->tokens.push_back(token);
}

const MirroredSequence* PlanMirror::Find(SequenceId id) const {
  auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

int32_t BucketOf(const StepPlan& plan, const MirrorLimits& limits) {
  const bool alike = std::all_of(plan.rows.begin(), plan.rows.end(),
                                 [](const Row& r) { return r.count == 1 && r.output == RowOutput::kSample; });
  if (!alike || plan.checksum) return 0;
  return GraphBucket(static_cast<int32_t>(plan.rows.size()),
                     std::min({limits.max_tokens, limits.max_sequences, kLargestBucket}));
}

}  // namespace shoal::plan
