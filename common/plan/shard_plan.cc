#include "common/plan/shard_plan.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace shoal::plan {
namespace {

using model::ModelConfig;

// Query heads are dealt out in units whose width is a multiple of the quantisation block, so that the columns of the
// output projection are cut between blocks: one head when head_dim is a multiple of 32.
int32_t HeadUnit(const ModelConfig& c) { return kQuantBlock / std::gcd(kQuantBlock, c.head_dim); }
int32_t HeadUnits(const ModelConfig& c) { return c.heads / HeadUnit(c); }
int32_t FfnUnits(const ModelConfig& c) { return c.ffn / kQuantBlock; }
int32_t ExpertUnits(const ModelConfig& c) { return c.experts.ffn / kQuantBlock; }
int32_t VocabUnits(const ModelConfig& c) { return (c.vocab + kQuantBlock - 1) / kQuantBlock; }

Range KvHeadsOf(const ModelConfig& c, Range heads) {
  return {model::KvHeadOf(c, heads.begin), model::KvHeadOf(c, heads.end - 1) + 1};
}

// Weights per token that the query and kv heads of one rank cost in one layer.
int64_t AttentionWork(const ModelConfig& c, Range heads) {
  return static_cast<int64_t>(c.hidden) * c.head_dim * 2 * (heads.size() + KvHeadsOf(c, heads).size());
}

// Weights per token of one layer's feed-forward part, of which a rank has a part of the width.
int64_t FeedForwardWork(const ModelConfig& c, int32_t layer, int64_t ffn, int64_t expert_ffn) {
  if (!c.kind(layer).has_experts) return (c.gated ? 3 : 2) * int64_t{c.hidden} * ffn;
  return c.hidden * (3 * c.experts.used * expert_ffn + c.experts.count);
}

// Of the output head.
int64_t HeadWork(const ModelConfig& c, int64_t vocab) { return c.has_head() ? vocab * c.hidden : 0; }

// Splits the head units into tp non-empty contiguous parts of at most ceil(units / tp): of all such splits the one with
// the fewest kv heads held (they are stored and computed once per rank that touches them), then the most even one.
// Dynamic programming over (parts, units dealt out).
std::vector<Range> SplitHeads(const ModelConfig& c, int32_t tp) {
  struct Cost {
    int64_t kv = std::numeric_limits<int64_t>::max() / 2, squares = 0;
    int32_t last = 0;  // units of the last part
  };
  const int32_t unit = HeadUnit(c), units = HeadUnits(c), most = (units + tp - 1) / tp;
  std::vector<std::vector<Cost>> best(static_cast<size_t>(tp) + 1, std::vector<Cost>(static_cast<size_t>(units) + 1));
  best[0][0].kv = 0;
  for (int32_t part = 1; part <= tp; ++part) {
    for (int32_t end = part; end <= units; ++end) {
      for (int32_t size = std::min(most, end); size >= 1; --size) {  // larger parts last in rank order on ties
        const Cost& before = best[part - 1][end - size];
        const Range heads = {(end - size) * unit, end * unit};
        const Cost cost = {before.kv + KvHeadsOf(c, heads).size(), before.squares + int64_t{size} * size, size};
        Cost& so_far = best[part][end];
        if (std::tie(cost.kv, cost.squares) < std::tie(so_far.kv, so_far.squares)) so_far = cost;
      }
    }
  }
  std::vector<Range> out(static_cast<size_t>(tp));
  int32_t end = units;
  for (int32_t part = tp; part >= 1; --part) {
    const int32_t size = best[part][end].last;
    out[part - 1] = {(end - size) * unit, end * unit};
    end -= size;
  }
  return out;
}

// Deals `units` blocks of 32 out in rank order, one more to the ranks that come first in `favoured`.
std::vector<Range> SplitBlocks(int32_t units, int32_t limit, const std::vector<int32_t>& favoured) {
  const auto tp = static_cast<int32_t>(favoured.size());
  std::vector<int32_t> sizes(favoured.size(), units / tp);
  for (int32_t i = 0; i < units % tp; ++i) ++sizes[favoured[i]];
  std::vector<Range> out;
  int32_t at = 0;
  for (const int32_t size : sizes) {
    out.push_back({std::min(at * kQuantBlock, limit), std::min((at + size) * kQuantBlock, limit)});
    at += size;
  }
  return out;
}

// Layers per stage: every stage gets one, each further layer goes where the result is smallest: first by matmul weights
// (the head counts, an embedding look-up does not), then by memory (where it does). Layers that differ count as their
// mean.
std::vector<Range> SplitLayers(const ModelConfig& c, int32_t pp) {
  const int64_t q = static_cast<int64_t>(c.heads) * c.head_dim, kv = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  int64_t feed_forward = 0;
  for (int32_t i = 0; i < c.layers; ++i) feed_forward += FeedForwardWork(c, i, c.ffn, c.experts.ffn);
  const int64_t layer = c.hidden * (2 * q + 2 * kv) + feed_forward / c.layers;
  const int64_t table = static_cast<int64_t>(c.vocab) * c.hidden, head = HeadWork(c, c.vocab);
  std::vector<int32_t> layers(static_cast<size_t>(pp), 1);
  for (int32_t left = c.layers - pp; left > 0; --left) {
    std::tuple<int64_t, int64_t, int32_t> best = {std::numeric_limits<int64_t>::max(), 0, 0};
    for (int32_t s = 0; s < pp; ++s) {
      const int64_t work = (layers[s] + 1) * layer + (s == pp - 1 ? head : 0);
      best = std::min(best, {work, work + (s == 0 ? table : 0), s});
    }
    ++layers[std::get<2>(best)];
  }
  std::vector<Range> out;
  int32_t at = 0;
  for (const int32_t count : layers) {
    out.push_back({at, at + count});
    at += count;
  }
  return out;
}

}  // namespace

uint64_t ShardPlan::Hash() const {
  uint64_t hash = RandomBits(static_cast<uint64_t>(tp), static_cast<uint64_t>(pp), ranks.size());
  const auto mix = [&](int64_t a, int64_t b) {
    hash = RandomBits(hash, static_cast<uint64_t>(a), static_cast<uint64_t>(b));
  };
  for (const RankShard& r : ranks) {
    mix(r.rank, r.stage * int64_t{1 << 20} + r.tp_index);
    for (const Range& range : {r.layers, r.heads, r.kv_heads, r.ffn, r.expert_ffn, r.vocab})
      mix(range.begin, range.end);
    mix(r.has_embedding, r.has_head);
  }
  return hash;
}

absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& c, int32_t tp, int32_t pp) {
  const std::vector<std::string> problems = model::CheckConfig(c);
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat("the model's config: ", problems.front()));
  int32_t most_tp = HeadUnits(c);
  for (const int32_t units : {FfnUnits(c), ExpertUnits(c)}) {
    if (units > 0) most_tp = std::min(most_tp, units);  // 0: the model has no such layers
  }
  if (tp < 1 || tp > most_tp) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor parallel size ", tp, " cannot be used: this model allows 1 to ", most_tp, " (", c.heads,
                     " query heads in units of ", HeadUnit(c), ", ", FfnUnits(c), " feed-forward blocks of ",
                     kQuantBlock, ", ", ExpertUnits(c), " of each expert)"));
  }
  if (pp < 1 || pp > c.layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pipeline parallel size ", pp, " cannot be used: this model allows 1 to ", c.layers, " (its layers)"));
  }
  const std::vector<Range> heads = SplitHeads(c, tp), layers = SplitLayers(c, pp);
  // Left-over blocks go to the ranks with the least attention work, the last ones first.
  std::vector<int32_t> favoured(static_cast<size_t>(tp));
  std::iota(favoured.rbegin(), favoured.rend(), 0);
  std::stable_sort(favoured.begin(), favoured.end(),
                   [&](int32_t a, int32_t b) { return AttentionWork(c, heads[a]) < AttentionWork(c, heads[b]); });
  const std::vector<Range> ffn = SplitBlocks(FfnUnits(c), c.ffn, favoured);
  const std::vector<Range> expert_ffn = SplitBlocks(ExpertUnits(c), c.experts.ffn, favoured);
  const std::vector<Range> vocab = SplitBlocks(VocabUnits(c), c.vocab, favoured);
  ShardPlan plan = {.tp = tp, .pp = pp, .ranks = {}};
  for (int32_t stage = 0; stage < pp; ++stage) {
    for (int32_t t = 0; t < tp; ++t) {
      plan.ranks.push_back({.rank = stage * tp + t,
                            .tp_index = t,
                            .stage = stage,
                            .layers = layers[stage],
                            .heads = heads[t],
                            .kv_heads = KvHeadsOf(c, heads[t]),
                            .ffn = ffn[t],
                            .expert_ffn = expert_ffn[t],
                            .vocab = vocab[t],
                            .has_embedding = stage == 0,
                            .has_head = stage == pp - 1});
    }
  }
  return plan;
}

namespace {

// Whether the rank's stage has the tensor.
bool InStage(const ModelConfig& c, const RankShard& shard, const model::TensorSpec& spec) {
  using model::Role;
  if (spec.layer >= 0) return shard.layers.contains(spec.layer);
  switch (spec.role) {
    case Role::kEmbedding:
      return shard.has_embedding || (c.tied_embeddings && shard.has_head);
    case Role::kFinalNorm:
    case Role::kFinalNormBias:
    case Role::kHead:
      return shard.has_head;
    default:
      return shard.has_embedding;
  }
}

}  // namespace

TensorSlice SliceOf(const ModelConfig& c, const RankShard& shard, const model::TensorSpec& spec) {
  if (!InStage(c, shard, spec)) return {};
  TensorSlice slice = {.rows = {0, spec.is_vector() ? 1 : static_cast<int32_t>(spec.shape[0])},
                       .columns = {0, static_cast<int32_t>(spec.shape.back())}};
  Range& rows = spec.is_vector() ? slice.columns : slice.rows;
  const auto scaled = [&](Range heads) { return Range{heads.begin * c.head_dim, heads.end * c.head_dim}; };
  switch (spec.shard) {
    case model::Shard::kReplicated:
      break;
    case model::Shard::kFirstRank:
      if (shard.tp_index != 0) return {};
      break;
    case model::Shard::kVocabRows:
      rows = shard.vocab;
      break;
    case model::Shard::kHeadRows:
      rows = scaled(shard.heads);
      break;
    case model::Shard::kKvHeadRows:
      rows = scaled(shard.kv_heads);
      break;
    case model::Shard::kHeadColumns:
      slice.columns = scaled(shard.heads);
      break;
    case model::Shard::kFfnRows:
      rows = shard.ffn;
      break;
    case model::Shard::kFfnColumns:
      slice.columns = shard.ffn;
      break;
    case model::Shard::kExpertFfnRows:
      rows = shard.expert_ffn;
      break;
    case model::Shard::kExpertFfnColumns:
      slice.columns = shard.expert_ffn;
      break;
  }
  return slice;
}

double BalanceBound(const ModelConfig& c, const ShardPlan& plan) {
  const auto work = [&](Range layers, Range heads, Range ffn, Range expert_ffn, int64_t vocab) {
    int64_t sum = layers.size() * AttentionWork(c, heads) + HeadWork(c, vocab);
    for (int32_t i = layers.begin; i < layers.end; ++i) sum += FeedForwardWork(c, i, ffn.size(), expert_ffn.size());
    return sum;
  };
  int64_t largest = 0;
  for (const RankShard& r : plan.ranks) {
    largest = std::max(largest, work(r.layers, r.heads, r.ffn, r.expert_ffn, r.has_head ? r.vocab.size() : 0));
  }
  const int64_t whole = work({0, c.layers}, {0, c.heads}, {0, c.ffn}, {0, c.experts.ffn}, c.vocab);
  return static_cast<double>(whole) / (static_cast<double>(largest) * static_cast<double>(plan.ranks.size()));
}

}  // namespace shoal::plan
