// Invariants between requests, sequences, blocks, the mirror and plans in flight.
#include <algorithm>

#include "common/base/check.h"
#include "coordinator/core/serving.h"

namespace shoal::core {

void Serving::CheckOne(const Request& r) const {
  SHOAL_CHECK(!r.sequences.empty());
  int32_t output_tokens = 0;
  bool goes_on = false;
  for (const Sequence& s : r.sequences) {
    SHOAL_CHECK(s.request == &r && s.choice == &s - r.sequences.data());
    CheckSequence(r, s);
    output_tokens += static_cast<int32_t>(s.tokens.size()) - r.prompt_tokens;
    goes_on |= !s.ended;
  }
  SHOAL_CHECK(goes_on);
  SHOAL_CHECK(r.stats.output_tokens == output_tokens);
  const bool asked = r.sampling.prompt_logprobs >= 0;
  SHOAL_CHECK(r.prompt_scored <= (asked ? r.prompt_tokens - 1 : 0));
  SHOAL_CHECK(!asked || r.stats.first_token == 0 || r.prompt_scored == r.prompt_tokens - 1);
  const bool out = r.prompt_scored == r.prompt_tokens - 1;
  SHOAL_CHECK(r.prompt_logprobs.size() == static_cast<size_t>(out ? 0 : r.prompt_scored));
}

void Serving::CheckSequence(const Request& r, const Sequence& s) const {
  const int32_t generated = static_cast<int32_t>(s.tokens.size()) - r.prompt_tokens;
  SHOAL_CHECK(generated >= 0 && generated <= r.max_tokens - (s.ended ? 0 : 1));
  if (s.ended) {
    SHOAL_CHECK(!s.running && !waiting_.contains(s.order) && s.id == 0 && s.blocks.empty());
    return;
  }
  SHOAL_CHECK(s.running == (std::find(running_.begin(), running_.end(), &s) != running_.end()));
  SHOAL_CHECK(s.running != waiting_.contains(s.order));
  SHOAL_CHECK(s.running || group_ == nullptr || s.blocks.empty());
  SHOAL_CHECK(s.kv >= 0 && s.kv <= s.kv_before && s.kv_before < static_cast<int32_t>(s.tokens.size()));
  SHOAL_CHECK(s.kv == 0 || (limits_.block_size > 0 &&
                            plan::BlocksFor(s.kv, limits_.block_size) <= static_cast<int32_t>(s.blocks.size())));
  SHOAL_CHECK(s.unanswered >= 0 && s.unanswered <= kMaxUnanswered);
  SHOAL_CHECK((s.id != 0) == (s.running || s.unanswered > 0));
  SHOAL_CHECK(s.id == 0 || by_id_.at(s.id) == &s);
}

void Serving::CheckInvariants() const {
  size_t sequences = 0;
  bool suspects = false;
  for (const auto& [id, r] : requests_) {
    SHOAL_CHECK(r->id == id);
    CheckOne(*r);
    for (const Sequence& s : r->sequences) sequences += s.ended ? 0 : 1;
    suspects |= RunsAlone(r->suspicion);
    SHOAL_CHECK(r->suspicion.losses < kMaxLosses || r->suspicion.alone < kMaxLosses);
  }
  SHOAL_CHECK(quarantine_ || !suspects);
  SHOAL_CHECK(canary_ == nullptr || group_ != nullptr);
  SHOAL_CHECK(canary_ == nullptr || canary_first_ || requests_.empty());
  if (canary_ != nullptr) {
    CheckOne(*canary_);
    ++sequences;
  }
  SHOAL_CHECK(running_.size() + waiting_.size() == sequences);
  SHOAL_CHECK(group_ != nullptr || (running_.empty() && by_id_.empty()));
  for (const auto& [id, s] : by_id_) SHOAL_CHECK(s->id == id);
  if (group_ != nullptr) CheckGroup();
}

void Serving::CheckGroup() const {
  const Group& g = *group_;
  g.pool.CheckInvariants();
  SHOAL_CHECK(g.flight.size() <= g.info.stages + 1);
  SHOAL_CHECK(g.flight.last_sent() == g.builder.stamp().step);
  SHOAL_CHECK(!g.builder.has_rows());
  // With nothing in flight no event would ever bring the next plan.
  SHOAL_CHECK(g.flight.size() > 0 || (running_.empty() && waiting_.empty()));
  std::vector<int32_t> holders(g.pool.size(), 0);
  uint64_t order = 0;
  size_t unstarted = 0;  // resumed, and not yet in a plan
  for (const Sequence* s : running_) {
    SHOAL_CHECK(s->order > order);
    order = s->order;
    SHOAL_CHECK(s->cohort >= 0 && s->cohort < g.info.stages);
    for (int32_t b : s->blocks) ++holders[b];
    // The scheduler counts on it: what siblings share are those blocks, and all of them.
    for (const Sequence& other : s->request->sequences) {
      const auto shared = static_cast<size_t>(PromptBlocks(*s->request));
      if (&other == s || !other.running || shared == 0) continue;
      const bool all = std::equal(s->blocks.begin(), s->blocks.begin() + shared, other.blocks.begin());
      SHOAL_CHECK(all || s->blocks[0] != other.blocks[0]);
    }
    SHOAL_CHECK(s->kv <= s->computed);
    SHOAL_CHECK(s->unanswered == g.flight.Count(s->id));
    if (!s->started) {
      ++unstarted;
      SHOAL_CHECK(g.builder.mirror().Find(s->id) == nullptr && s->unanswered == 0 && s->kv == s->computed);
      continue;
    }
    const plan::MirroredSequence* m = g.builder.mirror().Find(s->id);
    SHOAL_CHECK(m != nullptr);
    SHOAL_CHECK(m->length == s->length && m->computed == s->computed && m->blocks == s->blocks);
    SHOAL_CHECK(m->start_tokens == s->start_tokens && m->tokens.size() <= s->tokens.size());
    SHOAL_CHECK(std::equal(m->tokens.begin(), m->tokens.end(), s->tokens.begin()));
    // Promised tokens are those that plans in flight will bring.
    SHOAL_CHECK(s->length - static_cast<int32_t>(s->tokens.size()) <= s->unanswered);
  }
  for (const auto& [order_of, s] : waiting_) SHOAL_CHECK(s->unanswered == 0 || s->unanswered == g.flight.Count(s->id));
  for (int32_t b = 0; b < g.pool.size(); ++b) SHOAL_CHECK(g.pool.holders(b) == holders[b]);
  // The ranks hold what runs, and what ends with the next plan.
  SHOAL_CHECK(g.builder.mirror().size() == running_.size() - unstarted + g.builder.pending_ends().size());
  for (plan::SequenceId id : g.builder.pending_ends()) SHOAL_CHECK(g.builder.mirror().Find(id) != nullptr);
}

}  // namespace shoal::core
