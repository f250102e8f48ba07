// Tested by: tests/graph/graph_test.cc
#include "worker/graph/decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "worker/graph/decoder_impl.h"

namespace shoal::graph {
namespace {

absl::Status CheckTable(const ops::OpTable& t) {
  const bool complete = t.supports && t.quantises && t.gather_ids && t.scatter_ids && t.embed && t.gather_rows &&
                        t.rms_norm && t.layer_norm && t.matmul && t.rope_kv && t.attention && t.attention_workspace &&
                        t.glu && t.route && t.expert_matmul && t.join_experts && t.soft_cap && t.pool && t.sample &&
                        t.clear_counts && t.count_tokens && t.copy_blocks && t.checksum && t.sum_ranks &&
                        t.place_columns;
  const bool plans = (t.attention_plan_bytes == nullptr) == (t.attention_plan == nullptr);
  if (complete && plans) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("backend ", std::string(t.name), " lacks ops"));
}

ops::Pooling ToOps(model::Pooling p) {
  if (p == model::Pooling::kMean) return ops::Pooling::kMean;
  return p == model::Pooling::kFirst ? ops::Pooling::kFirst : ops::Pooling::kLast;
}

absl::Status CheckMatrix(const ops::OpTable& table, const char* name, const ops::Weight& w, int64_t n, int64_t k) {
  if (!table.supports(w.dtype) || (table.quantises(w.dtype) && table.quantise == nullptr)) {
    return absl::InvalidArgumentError(absl::StrCat("backend ", std::string(table.name), " has no ",
                                                   std::string(Info(w.dtype).name), " weights (", name, ")"));
  }
  if (w.n == n && w.k == k && (w.data != nullptr || n == 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", w.n, " x ", w.k, " on this rank, ", n, " x ", k, " is needed"));
}

absl::Status CheckExperts(const DecoderParts& p, const weights::LayerWeights& w) {
  const int64_t hidden = p.config.hidden, ffn = p.shard.expert_ffn.size();
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "router", w.router, p.config.experts.count, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "expert gate", w.expert_gate.first, ffn, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "expert up", w.expert_up.first, ffn, hidden));
  return CheckMatrix(*p.table, "expert down", w.expert_down.first, hidden, ffn);
}

absl::Status CheckLayer(const DecoderParts& p, const weights::LayerWeights& w, const model::LayerKind& kind) {
  const model::ModelConfig& c = p.config;
  const int64_t hidden = c.hidden, ffn = p.shard.ffn.size();
  const int64_t q = int64_t{p.shard.heads.size()} * c.head_dim, kv = int64_t{p.shard.kv_heads.size()} * c.head_dim;
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "q", w.q, q, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "k", w.k, kv, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "v", w.v, kv, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "o", w.o, hidden, q));
  const bool before = c.norm_place != model::NormPlace::kAfter, behind = c.norm_place != model::NormPlace::kBefore;
  const bool normed = (!before || (w.attn_norm.weight && w.ffn_norm.weight)) &&
                      (!behind || (w.attn_post_norm.weight && w.ffn_post_norm.weight)) &&
                      (!c.qk_norm || (w.q_norm && w.k_norm));
  if (!normed) return absl::InvalidArgumentError("a norm is missing");
  if (kind.has_experts) return CheckExperts(p, w);
  if (c.gated) SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "gate", w.gate, ffn, hidden));
  SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "up", w.up, ffn, hidden));
  return CheckMatrix(*p.table, "down", w.down, hidden, ffn);
}

absl::Status CheckLayers(const DecoderParts& p) {
  const size_t layers = static_cast<size_t>(p.shard.layers.size());
  if (p.weights->layers.size() != layers || p.kv.size() != layers) {
    return absl::InvalidArgumentError(absl::StrCat("weights of ", p.weights->layers.size(), " layers and a cache of ",
                                                   p.kv.size(), ", the shard has ", layers));
  }
  for (size_t i = 0; i < layers; ++i) {
    const model::LayerKind kind = p.config.kind(p.shard.layers.begin + static_cast<int32_t>(i));
    SHOAL_RETURN_IF_ERROR(CheckLayer(p, p.weights->layers[i], kind));
  }
  return absl::OkStatus();
}

absl::Status CheckEnds(const DecoderParts& p) {
  const model::ModelConfig& c = p.config;
  const weights::ModelWeights& w = *p.weights;
  const int64_t vocab = p.shard.vocab.size(), hidden = c.hidden;
  if (p.shard.has_embedding) {
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "embedding", w.embedding, vocab, hidden));
    if (c.learned_positions) {
      SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "positions", w.positions, c.max_position, hidden));
      if (p.options.max_context > c.max_position) {
        return absl::InvalidArgumentError(absl::StrCat("contexts of ", p.options.max_context, " tokens, the model has ",
                                                       c.max_position, " positions"));
      }
    }
    if (c.token_types && w.token_type == nullptr) return absl::InvalidArgumentError("the token type is missing");
    if (c.embedding_norm && w.embedding_norm.weight == nullptr) {
      return absl::InvalidArgumentError("the embedding norm is missing");
    }
  }
  if (!p.shard.has_head) return absl::OkStatus();
  if (c.final_norm && w.final_norm.weight == nullptr) return absl::InvalidArgumentError("the final norm is missing");
  return c.has_head() ? CheckMatrix(*p.table, "head", w.head, vocab, hidden) : absl::OkStatus();
}

// What the backend has limits for.
absl::Status CheckSizes(const DecoderParts& p) {
  if (p.table->check_sizes == nullptr) return absl::OkStatus();
  return p.table->check_sizes({.hidden = p.config.hidden,
                               .q_dim = int64_t{p.shard.heads.size()} * p.config.head_dim,
                               .ffn = p.shard.ffn.size(),
                               .head_dim = p.config.head_dim,
                               .rot_dim = p.config.rope.dim,
                               .interleaved = p.config.rope.interleaved,
                               .vocab = p.shard.has_head && p.tensor->index() == 0 ? p.config.vocab : 0,
                               .kv_type = p.kv.empty() ? DType::kBF16 : p.kv[0].dtype,
                               .block_size = p.kv.empty() ? 16 : p.kv[0].block_size,
                               .experts = p.config.experts.count,
                               .experts_used = p.config.experts.used,
                               .expert_ffn = p.shard.expert_ffn.size()});
}

// The columns of logits that each tensor rank has: the cut of the vocabulary does not depend on the stages.
absl::StatusOr<std::vector<int32_t>> VocabWidths(const DecoderParts& p) {
  const int tp = p.tensor->size();
  if (p.tensor->index() != p.shard.tp_index) return absl::InvalidArgumentError("the channel is of another tensor rank");
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan plan, plan::MakeShardPlan(p.config, tp, 1));
  std::vector<int32_t> widths;
  for (const plan::RankShard& rank : plan.ranks) widths.push_back(rank.vocab.size());
  if (!(plan.ranks[p.shard.tp_index].vocab == p.shard.vocab)) {
    return absl::InvalidArgumentError("the shard's vocabulary is not that of its tensor rank");
  }
  return widths;
}

ScratchShape ShapeOf(const model::ModelConfig& config, const plan::RankShard& shard, int tp,
                     const DecoderOptions& options, const ops::OpTable& table, int threads) {
  const bool gathers = shard.has_head && tp > 1 && shard.tp_index == 0;
  const bool pools = shard.has_head && config.task == model::Task::kEmbed, is_host = table.acts == DType::kF32;
  return {.tokens = options.max_tokens,
          .samples = shard.has_head ? options.max_samples : 0,
          .hidden = config.hidden,
          .q_dim = int64_t{shard.heads.size()} * config.head_dim,
          .kv_dim = int64_t{shard.kv_heads.size()} * config.head_dim,
          .ffn = shard.ffn.size(),
          .local_vocab = shard.vocab.size(),
          .vocab = gathers ? config.vocab : 0,
          .attention_workspace = table.attention_workspace(threads, options.max_tokens, shard.heads.size(),
                                                           config.head_dim, options.max_context),
          .checksums = 2 * int64_t{shard.layers.size()} + 1,
          .experts = config.experts.count,
          .experts_used = config.experts.used,
          .expert_ffn = shard.expert_ffn.size(),
          .expert_tokens = is_host ? std::min(options.max_tokens, kRowsPerCall) : options.max_tokens,
          .pooled = pools ? options.max_samples : 0,
          .acts = table.acts,
          .quantises = table.quantise != nullptr};
}

BatchShape BatchShapeOf(const model::ModelConfig& config, const plan::RankShard& shard, const DecoderOptions& options,
                        int block_size) {
  BatchShape shape = {.options = options,
                      .rope = config.rope,
                      .other_rope = std::nullopt,
                      .block_size = block_size,
                      .q_to_kv = {},
                      .kv_heads = shard.kv_heads.size(),
                      .head_dim = config.head_dim,
                      .causal = config.causal,
                      .positions = config.learned_positions,
                      .pools = shard.has_head && config.task == model::Task::kEmbed};
  for (int32_t layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    if (config.kind(layer).other_rope) shape.other_rope = config.other_rope;
  }
  for (int32_t head = shard.heads.begin; head < shard.heads.end; ++head) {
    shape.q_to_kv.push_back(model::KvHeadOf(config, head) - shard.kv_heads.begin);
  }
  return shape;
}

// The decoder with its memory. ResourceExhausted: there is not so much.
absl::StatusOr<std::unique_ptr<Decoder>> Build(DecoderParts p) {
  const ScratchShape shape = ShapeOf(p.config, p.shard, p.tensor->size(), p.options, *p.table, p.stream->threads());
  SHOAL_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Create(*p.device, shape));
  BatchShape batch = BatchShapeOf(p.config, p.shard, p.options, p.kv.empty() ? 1 : p.kv[0].block_size);
  const size_t map_bytes = batch.q_to_kv.size() * sizeof(int32_t);
  SHOAL_ASSIGN_OR_RETURN(device::Memory map, p.device->Allocate(map_bytes));
  SHOAL_RETURN_IF_ERROR(p.device->Upload(map.data(), batch.q_to_kv.data(), map_bytes));
  SHOAL_ASSIGN_OR_RETURN(StagedBatch staged, StagedBatch::Create(p.device, std::move(batch)));
  return std::make_unique<DecoderImpl>(std::move(p), std::move(scratch), std::move(staged), std::move(map));
}

}  // namespace

int64_t DecoderBytes(const model::ModelConfig& config, const plan::RankShard& shard, int tp,
                     const DecoderOptions& options, const ops::OpTable& table, int threads) {
  constexpr int kSmallestBlock = 16;  // tokens: ops::KvLayer; the longest block tables
  const bool is_host = table.acts == DType::kF32;
  return ScratchBytes(ShapeOf(config, shard, tp, options, table, threads)) +
         StagedBatch::Bytes(is_host, table, threads, BatchShapeOf(config, shard, options, kSmallestBlock));
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const model::ModelConfig& config, const plan::RankShard& shard,
                                                         const DecoderOptions& options, device::Device* device,
                                                         const weights::ModelWeights* weights,
                                                         std::vector<ops::KvLayer> kv, comm::TensorChannel* tensor,
                                                         OperationLog* operations) {
  if (options.max_tokens < 1 || options.max_samples < 1 || options.max_context < 1) {
    return absl::InvalidArgumentError("a decoder for batches of nothing");
  }
  DecoderParts parts = {.config = config,
                        .shard = shard,
                        .options = options,
                        .device = device,
                        .table = &device->table(),
                        .stream = &device->stream(),
                        .weights = weights,
                        .kv = std::move(kv),
                        .tensor = tensor,
                        .operations = operations,
                        .vocab_widths = {}};
  SHOAL_RETURN_IF_ERROR(CheckTable(*parts.table));
  SHOAL_RETURN_IF_ERROR(CheckSizes(parts));
  SHOAL_RETURN_IF_ERROR(CheckLayers(parts));
  SHOAL_RETURN_IF_ERROR(CheckEnds(parts));
  SHOAL_ASSIGN_OR_RETURN(parts.vocab_widths, VocabWidths(parts));
  const int64_t bytes =
      DecoderBytes(config, shard, tensor->size(), options, device->table(), device->stream().threads());
  auto decoder = Build(std::move(parts));
  if (!absl::IsResourceExhausted(decoder.status())) return decoder;
  return absl::ResourceExhaustedError(absl::StrCat("no memory for batches of ", options.max_tokens, " tokens and ",
                                                   options.max_samples, " samples, which take ", bytes >> 20,
                                                   " MiB: lower --max-num-batched-tokens or --max-num-seqs"));
}

DecoderImpl::DecoderImpl(DecoderParts parts, Scratch scratch, StagedBatch staged, device::Memory q_to_kv)
    : p_(std::move(parts)),
      s_(std::move(scratch)),
      act_bytes_(static_cast<int64_t>(Info(p_.table->acts).block_bytes)),
      b_(std::move(staged)),
      q_to_kv_(std::move(q_to_kv)) {}

absl::Status DecoderImpl::Begin(const Batch& batch) {
  last_ = batch.last;
  return b_.Stage(batch);
}

std::span<std::byte> DecoderImpl::residual() {
  return {s_.x.as<std::byte>(), static_cast<size_t>(b_.tokens() * p_.config.hidden * act_bytes_)};
}

absl::Status DecoderImpl::Embed() {
  SHOAL_CHECK(p_.shard.has_embedding);
  Start(Operation::kEmbed);
  SHOAL_RETURN_IF_ERROR(
      p_.table->gather_ids(*p_.stream, {.sources = b_.sources(), .last = last_, .ids = s_.ids, .tokens = b_.tokens()}));
  SHOAL_RETURN_IF_ERROR(p_.table->embed(*p_.stream, {.table = p_.weights->embedding,
                                                     .ids = s_.ids,
                                                     .row_begin = p_.shard.vocab.begin,
                                                     .scale = p_.config.embedding_scale,
                                                     .x = s_.x,
                                                     .tokens = b_.tokens()}));
  SHOAL_RETURN_IF_ERROR(Reduce(Operation::kReduceEmbedding, s_.x, b_.tokens()));
  return AddPositions();
}

// And what else embeddings are. Every tensor rank has all of it, and does the same.
absl::Status DecoderImpl::AddPositions() {
  if (!p_.config.learned_positions && !p_.config.embedding_norm) return absl::OkStatus();
  Start(Operation::kEmbed);
  const ops::ConstActs positions = p_.config.learned_positions ? ops::ConstActs(s_.h) : nullptr;
  if (p_.config.learned_positions) {
    SHOAL_RETURN_IF_ERROR(p_.table->embed(*p_.stream, {.table = p_.weights->positions,
                                                       .ids = b_.positions(),
                                                       .row_begin = 0,
                                                       .scale = 1,
                                                       .x = s_.h,
                                                       .tokens = b_.tokens(),
                                                       .add = p_.weights->token_type}));
  }
  return Norm(Operation::kEmbed, s_.x, positions, p_.weights->embedding_norm, s_.x, b_.tokens());
}

absl::Status DecoderImpl::Forward() {
  folds_ = 0;
  pending_ = nullptr;
  for (size_t i = 0; i < p_.weights->layers.size(); ++i) {
    const Layer layer = {p_.weights->layers[i], p_.kv[i], KindOf(i)};
    SHOAL_RETURN_IF_ERROR(AttentionBlock(layer));
    SHOAL_RETURN_IF_ERROR(FeedForwardBlock(layer));
    // So that a long step is no standstill. A graph is short, and records no marks.
    if (!b_.recordable()) SHOAL_RETURN_IF_ERROR(p_.device->Milestone());
  }
  const ops::ConstActs pending = std::exchange(pending_, nullptr);
  if (pending.data() != nullptr) {  // the join alone
    SHOAL_RETURN_IF_ERROR(Norm(Operation::kFfnNorm, s_.x, pending, {}, s_.h, b_.tokens()));
  }
  return Fold(s_.x);
}

absl::Status DecoderImpl::Fold(ops::ConstActs rows) {
  if (!b_.checksum()) return absl::OkStatus();
  return p_.table->checksum(*p_.stream, {.data = rows.data(),
                                         .bytes = b_.tokens() * p_.config.hidden * act_bytes_,
                                         .sums = s_.sums + ops::kChecksumParts * folds_++});
}

absl::StatusOr<std::span<const float>> DecoderImpl::Pooled() {
  SHOAL_CHECK(p_.shard.has_head && p_.config.task == model::Task::kEmbed);
  const int64_t hidden = p_.config.hidden;
  const int vectors = b_.pooled();
  if (p_.config.final_norm) {
    SHOAL_RETURN_IF_ERROR(Norm(Operation::kFinalNorm, s_.x, nullptr, p_.weights->final_norm, s_.h, b_.tokens()));
  }
  Start(Operation::kPool);
  SHOAL_RETURN_IF_ERROR(p_.table->pool(*p_.stream, {.x = p_.config.final_norm ? s_.h : s_.x,
                                                    .first = b_.first_rows(),
                                                    .rows = b_.row_counts(),
                                                    .y = s_.pooled,
                                                    .count = vectors,
                                                    .dim = static_cast<int>(hidden),
                                                    .pooling = ToOps(p_.config.pooling),
                                                    .normalise = p_.config.normalise}));
  return std::span<const float>(s_.pooled, static_cast<size_t>(vectors * hidden));
}

absl::StatusOr<std::span<const float>> DecoderImpl::Logits() {
  SHOAL_CHECK(p_.shard.has_head);
  const int samples = b_.samples();
  const size_t vocab = p_.config.vocab;
  Start(Operation::kFinalNorm);
  SHOAL_RETURN_IF_ERROR(p_.table->gather_rows(*p_.stream, {.x = s_.x,
                                                           .rows = b_.sample_rows(),
                                                           .y = s_.picked,
                                                           .count = samples,
                                                           .dim = static_cast<int>(p_.config.hidden)}));
  if (p_.config.final_norm) {
    SHOAL_RETURN_IF_ERROR(Norm(Operation::kFinalNorm, s_.picked, nullptr, p_.weights->final_norm, s_.h, samples));
  }
  const ops::ConstActs rows = p_.config.final_norm ? s_.h : s_.picked;
  const int64_t width = p_.shard.vocab.size();
  if (width > 0) {
    SHOAL_RETURN_IF_ERROR(
        Multiply(Operation::kHead, rows, samples, p_.config.hidden, {{p_.weights->head, s_.local_logits}}));
  }
  if (width > 0 && (p_.config.logit_scale != 1 || p_.config.logit_soft_cap > 0)) {
    SHOAL_RETURN_IF_ERROR(p_.table->soft_cap(*p_.stream, {.y = s_.local_logits,
                                                          .count = samples * width,
                                                          .scale = p_.config.logit_scale,
                                                          .cap = p_.config.logit_soft_cap}));
  }
  const std::span<const float> local(s_.local_logits, static_cast<size_t>(samples) * width);
  if (p_.tensor->size() == 1) return local;
  Start(Operation::kGatherLogits);
  SHOAL_RETURN_IF_ERROR(p_.tensor->GatherColumns(local, samples, p_.vocab_widths, s_.logits, vocab));
  if (p_.tensor->index() != 0) return std::span<const float>();
  return std::span<const float>(s_.logits, static_cast<size_t>(samples) * vocab);
}

}  // namespace shoal::graph
