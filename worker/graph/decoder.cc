// Tested by: tests/graph/graph_test.cc
#include "worker/graph/decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/checksum.h"
#include "common/base/status_macros.h"
#include "worker/graph/decoder_impl.h"

namespace shoal::graph {
namespace {

absl::Status CheckTable(const ops::OpTable& t) {
  const bool complete = t.supports && t.embed && t.rms_norm && t.quantise && t.matmul && t.rope_kv && t.attention &&
                        t.attention_workspace && t.glu && t.sample && t.copy_blocks;
  return complete ? absl::OkStatus() : absl::InternalError(absl::StrCat("backend ", std::string(t.name), " lacks ops"));
}

absl::Status CheckMatrix(const ops::OpTable& table, const char* name, const ops::Weight& w, int64_t n, int64_t k) {
  if (!table.supports(w.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("backend ", std::string(table.name), " has no ",
                                                   std::string(Info(w.dtype).name), " weights (", name, ")"));
  }
  if (w.n == n && w.k == k && (w.data != nullptr || n == 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", w.n, " x ", w.k, " on this rank, ", n, " x ", k, " is needed"));
}

absl::Status CheckLayers(const DecoderParts& p) {
  const size_t layers = static_cast<size_t>(p.shard.layers.size());
  if (p.weights->layers.size() != layers || p.kv.size() != layers) {
    return absl::InvalidArgumentError(absl::StrCat("weights of ", p.weights->layers.size(), " layers and a cache of ",
                                                   p.kv.size(), ", the shard has ", layers));
  }
  const int64_t hidden = p.config.hidden, ffn = p.shard.ffn.size();
  const int64_t q = int64_t{p.shard.heads.size()} * p.config.head_dim;
  const int64_t kv = int64_t{p.shard.kv_heads.size()} * p.config.head_dim;
  for (const weights::LayerWeights& w : p.weights->layers) {
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "q", w.q, q, hidden));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "k", w.k, kv, hidden));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "v", w.v, kv, hidden));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "o", w.o, hidden, q));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "gate", w.gate, ffn, hidden));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "up", w.up, ffn, hidden));
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "down", w.down, hidden, ffn));
    if (w.attn_norm == nullptr || w.ffn_norm == nullptr) return absl::InvalidArgumentError("a norm is missing");
  }
  return absl::OkStatus();
}

absl::Status CheckEnds(const DecoderParts& p) {
  const int64_t vocab = p.shard.vocab.size(), hidden = p.config.hidden;
  if (p.shard.has_embedding) {
    SHOAL_RETURN_IF_ERROR(CheckMatrix(*p.table, "embedding", p.weights->embedding, vocab, hidden));
  }
  if (!p.shard.has_head) return absl::OkStatus();
  if (p.weights->final_norm == nullptr) return absl::InvalidArgumentError("the final norm is missing");
  return CheckMatrix(*p.table, "head", p.weights->head, vocab, hidden);
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
  return {.tokens = options.max_tokens,
          .samples = shard.has_head ? options.max_samples : 0,
          .hidden = config.hidden,
          .q_dim = int64_t{shard.heads.size()} * config.head_dim,
          .kv_dim = int64_t{shard.kv_heads.size()} * config.head_dim,
          .ffn = shard.ffn.size(),
          .local_vocab = shard.vocab.size(),
          .vocab = gathers ? config.vocab : 0,
          .attention_workspace = table.attention_workspace(threads, options.max_tokens, shard.heads.size(),
                                                           config.head_dim, options.max_context)};
}

int64_t Bytes(const DecoderParts& p) {
  return DecoderBytes(p.config, p.shard, p.tensor->size(), p.options, *p.table, p.stream->threads());
}

}  // namespace

int64_t DecoderBytes(const model::ModelConfig& config, const plan::RankShard& shard, int tp,
                     const DecoderOptions& options, const ops::OpTable& table, int threads) {
  const int64_t rope = int64_t{config.rope.dim} * options.max_tokens * static_cast<int64_t>(sizeof(float));
  return ScratchBytes(ShapeOf(config, shard, tp, options, table, threads)) + rope;
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const model::ModelConfig& config, const plan::RankShard& shard,
                                                         const DecoderOptions& options, const ops::OpTable* table,
                                                         ops::Stream* stream, const weights::ModelWeights* weights,
                                                         std::vector<ops::KvLayer> kv, comm::TensorChannel* tensor,
                                                         std::atomic<uint32_t>* operation) {
  if (options.max_tokens < 1 || options.max_samples < 1 || options.max_context < 1) {
    return absl::InvalidArgumentError("a decoder for batches of nothing");
  }
  DecoderParts parts = {.config = config,
                        .shard = shard,
                        .options = options,
                        .table = table,
                        .stream = stream,
                        .weights = weights,
                        .kv = std::move(kv),
                        .tensor = tensor,
                        .operation = operation,
                        .vocab_widths = {}};
  SHOAL_RETURN_IF_ERROR(CheckTable(*table));
  SHOAL_RETURN_IF_ERROR(CheckLayers(parts));
  SHOAL_RETURN_IF_ERROR(CheckEnds(parts));
  SHOAL_ASSIGN_OR_RETURN(parts.vocab_widths, VocabWidths(parts));
  const int64_t bytes = Bytes(parts);
  auto decoder = std::make_unique<DecoderImpl>(std::move(parts));
  if (decoder->complete()) return decoder;
  return absl::ResourceExhaustedError(absl::StrCat("no memory for batches of ", options.max_tokens, " tokens and ",
                                                   options.max_samples, " samples, which take ", bytes >> 20,
                                                   " MiB: lower --max-num-batched-tokens or --max-num-seqs"));
}

DecoderImpl::DecoderImpl(DecoderParts parts)
    : p_(std::move(parts)),
      s_(ShapeOf(p_.config, p_.shard, p_.tensor->size(), p_.options, *p_.table, p_.stream->threads())),
      rope_(p_.config.rope, p_.options.max_tokens) {
  attends_.reserve(kRowsPerCall);  // each has a row
  for (int32_t head = p_.shard.heads.begin; head < p_.shard.heads.end; ++head) {
    q_to_kv_.push_back(model::KvHeadOf(p_.config, head) - p_.shard.kv_heads.begin);
  }
}

std::span<float> DecoderImpl::residual(int tokens) {
  SHOAL_CHECK(tokens >= 0 && tokens <= p_.options.max_tokens);
  return {s_.x.get(), static_cast<size_t>(tokens) * p_.config.hidden};
}

absl::Status DecoderImpl::Embed(std::span<const int32_t> ids) {
  SHOAL_CHECK(p_.shard.has_embedding && static_cast<int>(ids.size()) <= p_.options.max_tokens);
  const int tokens = static_cast<int>(ids.size());
  Begin(Operation::kEmbed);
  SHOAL_RETURN_IF_ERROR(p_.table->embed(*p_.stream, {.table = p_.weights->embedding,
                                                     .ids = ids.data(),
                                                     .row_begin = p_.shard.vocab.begin,
                                                     .scale = p_.config.embedding_scale,
                                                     .x = s_.x.get(),
                                                     .tokens = tokens}));
  return Reduce(Operation::kReduceEmbedding, s_.x.get(), tokens);
}

absl::Status DecoderImpl::CheckBatch(const Batch& batch) const {
  const auto tokens = static_cast<size_t>(batch.tokens);
  if (batch.tokens < 1 || batch.tokens > p_.options.max_tokens || batch.positions.size() != tokens ||
      batch.slots.size() != tokens || batch.sample_rows.size() > static_cast<size_t>(p_.options.max_samples)) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", batch.tokens, " tokens and ",
                                                   batch.sample_rows.size(), " samples, at most ",
                                                   p_.options.max_tokens, " and ", p_.options.max_samples, " fit"));
  }
  return absl::OkStatus();
}

absl::Status DecoderImpl::Forward(const Batch& batch) {
  SHOAL_RETURN_IF_ERROR(CheckBatch(batch));
  rope_.Fill(batch.positions);
  if (batch.checksum) checksum_ = 1;
  const float* pending = nullptr;
  for (size_t i = 0; i < p_.weights->layers.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(Layer(p_.weights->layers[i], p_.kv[i], batch, pending));
    pending = s_.partial.get();
  }
  // The join alone.
  SHOAL_RETURN_IF_ERROR(Norm(Operation::kFfnNorm, s_.x.get(), pending, nullptr, s_.h.get(), batch.tokens));
  Fold(batch, s_.x.get());
  return absl::OkStatus();
}

void DecoderImpl::Fold(const Batch& batch, const float* rows) {
  if (!batch.checksum) return;
  const std::span<const float> values(rows, static_cast<size_t>(batch.tokens) * p_.config.hidden);
  checksum_ = std::max<uint64_t>(Checksum64(std::as_bytes(values), checksum_), 1);
}

absl::StatusOr<std::span<const float>> DecoderImpl::Logits(const Batch& batch) {
  SHOAL_CHECK(p_.shard.has_head);
  const int samples = static_cast<int>(batch.sample_rows.size());
  const size_t hidden = p_.config.hidden, vocab = p_.config.vocab;
  for (int i = 0; i < samples; ++i) {
    std::memcpy(s_.picked.get() + i * hidden, s_.x.get() + batch.sample_rows[i] * hidden, hidden * sizeof(float));
  }
  SHOAL_RETURN_IF_ERROR(
      Norm(Operation::kFinalNorm, s_.picked.get(), nullptr, p_.weights->final_norm, s_.h.get(), samples));
  const int64_t width = p_.shard.vocab.size();
  if (width > 0) {
    SHOAL_RETURN_IF_ERROR(
        Multiply(Operation::kHead, s_.h.get(), samples, p_.config.hidden, {{p_.weights->head, s_.local_logits.get()}}));
  }
  const std::span<const float> local(s_.local_logits.get(), static_cast<size_t>(samples) * width);
  if (p_.tensor->size() == 1) return local;
  Begin(Operation::kGatherLogits);
  SHOAL_RETURN_IF_ERROR(p_.tensor->GatherColumns(local, samples, p_.vocab_widths, s_.logits.get(), vocab));
  if (p_.tensor->index() != 0) return std::span<const float>();
  return std::span<const float>(s_.logits.get(), samples * vocab);
}

}  // namespace shoal::graph
