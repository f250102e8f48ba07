// Tested by: tests/graph/golden_test.cc
// One layer of the decoder, in the order of the header.
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "worker/graph/decoder_impl.h"

namespace shoal::graph {
namespace {

ops::Activation ToOps(model::Activation a) {
  return a == model::Activation::kSilu ? ops::Activation::kSilu : ops::Activation::kGeluTanh;
}

}  // namespace

absl::Status DecoderImpl::Layer(const weights::LayerWeights& w, const ops::KvLayer& cache, const Batch& batch,
                                const float* pending) {
  SHOAL_RETURN_IF_ERROR(AttentionBlock(w, cache, batch, pending));
  return FeedForwardBlock(w, batch);
}

absl::Status DecoderImpl::AttentionBlock(const weights::LayerWeights& w, const ops::KvLayer& cache, const Batch& batch,
                                         const float* pending) {
  const int tokens = batch.tokens;
  SHOAL_RETURN_IF_ERROR(Norm(Operation::kAttentionNorm, s_.x.get(), pending, w.attn_norm, s_.h.get(), tokens));
  Fold(batch, s_.h.get());
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kQkv, s_.h.get(), tokens, p_.config.hidden,
                                 {{w.q, s_.q.get()}, {w.k, s_.k.get()}, {w.v, s_.v.get()}}));
  SHOAL_RETURN_IF_ERROR(WriteCache(cache, batch));
  SHOAL_RETURN_IF_ERROR(Attend(cache, batch));
  SHOAL_RETURN_IF_ERROR(
      Multiply(Operation::kAttentionOutput, s_.attended.get(), tokens, q_dim(), {{w.o, s_.partial.get()}}));
  return Reduce(Operation::kReduceAttention, s_.partial.get(), tokens);
}

absl::Status DecoderImpl::WriteCache(const ops::KvLayer& cache, const Batch& batch) {
  Begin(Operation::kRope);
  const int64_t half = p_.config.rope.dim / 2;
  return InParts(batch.tokens, kRowsPerCall, [&](int begin, int rows) {
    return p_.table->rope_kv(*p_.stream, {.q = s_.q.get() + begin * q_dim(),
                                          .k = s_.k.get() + begin * kv_dim(),
                                          .v = s_.v.get() + begin * kv_dim(),
                                          .q_stride = q_dim(),
                                          .kv_stride = kv_dim(),
                                          .cos = rope_.cos() + begin * half,
                                          .sin = rope_.sin() + begin * half,
                                          .slots = batch.slots.data() + begin,
                                          .cache = cache,
                                          .tokens = rows,
                                          .q_heads = p_.shard.heads.size(),
                                          .rot_dim = p_.config.rope.dim,
                                          .interleaved = p_.config.rope.interleaved});
  });
}

absl::Status DecoderImpl::Attend(const ops::KvLayer& cache, const Batch& batch) {
  Begin(Operation::kAttention);
  int context = 0;
  for (const ops::AttentionSequence& s : batch.sequences) context = std::max(context, s.position + s.row_count);
  const int part = context > kLongContext ? kLongContextRows : kRowsPerCall;
  return InParts(batch.tokens, part, [&](int begin, int rows) {
    attends_.clear();
    for (const ops::AttentionSequence& s : batch.sequences) {
      const int from = std::max(begin, s.row_begin), to = std::min(begin + rows, s.row_begin + s.row_count);
      if (from < to) attends_.push_back({s.block_table, from, to - from, s.position + from - s.row_begin});
    }
    return p_.table->attention(*p_.stream, {.q = s_.q.get(),
                                            .out = s_.attended.get(),
                                            .q_stride = q_dim(),
                                            .cache = cache,
                                            .sequences = attends_.data(),
                                            .sequence_count = static_cast<int>(attends_.size()),
                                            .q_to_kv = q_to_kv_.data(),
                                            .q_heads = p_.shard.heads.size(),
                                            .q_head_begin = p_.shard.heads.begin,
                                            .scale = p_.config.attention_scale,
                                            .workspace = s_.workspace.get()});
  });
}

absl::Status DecoderImpl::Activate(int tokens) {
  Begin(Operation::kActivation);
  const int64_t ffn = p_.shard.ffn.size();
  return InParts(tokens, kRowsPerCall, [&](int begin, int rows) {
    return p_.table->glu(*p_.stream, {.gate = s_.gate.get() + begin * ffn,
                                      .up = s_.up.get() + begin * ffn,
                                      .y = s_.gate.get() + begin * ffn,
                                      .tokens = rows,
                                      .dim = static_cast<int>(ffn),
                                      .activation = ToOps(p_.config.activation)});
  });
}

absl::Status DecoderImpl::FeedForwardBlock(const weights::LayerWeights& w, const Batch& batch) {
  const int ffn = p_.shard.ffn.size(), tokens = batch.tokens;
  SHOAL_RETURN_IF_ERROR(Norm(Operation::kFfnNorm, s_.x.get(), s_.partial.get(), w.ffn_norm, s_.h.get(), tokens));
  Fold(batch, s_.h.get());
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kGateUp, s_.h.get(), tokens, p_.config.hidden,
                                 {{w.gate, s_.gate.get()}, {w.up, s_.up.get()}}));
  SHOAL_RETURN_IF_ERROR(Activate(tokens));
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kDown, s_.gate.get(), tokens, ffn, {{w.down, s_.partial.get()}}));
  return Reduce(Operation::kReduceFfn, s_.partial.get(), tokens);
}

absl::Status DecoderImpl::Norm(Operation op, float* x, const float* add, const float* w, float* y, int tokens) {
  Begin(op);
  const int64_t dim = p_.config.hidden;
  return InParts(tokens, kRowsPerCall, [&](int begin, int rows) {
    return p_.table->rms_norm(*p_.stream, {.x = x + begin * dim,
                                           .add = add == nullptr ? nullptr : add + begin * dim,
                                           .w = w,
                                           .y = y + begin * dim,
                                           .tokens = rows,
                                           .dim = static_cast<int>(dim),
                                           .eps = p_.config.norm_eps,
                                           .weight_bias = 0});
  });
}

absl::Status DecoderImpl::Multiply(Operation op, const float* x, int tokens, int64_t k,
                                   std::initializer_list<Product> products) {
  Begin(op);
  const int width = static_cast<int>(k);
  return InParts(tokens, kRowsPerCall, [&](int begin, int rows) -> absl::Status {
    const float* const from = x + begin * k;
    ops::MatmulArgs args = {.x = from, .xq = nullptr, .parts = {}, .part_count = 0, .tokens = rows, .k = width};
    for (const Product& product : products) {
      SHOAL_CHECK(args.part_count < ops::kMaxMatmulParts && product.w.k == k);
      if (IsQuantised(product.w.dtype)) args.xq = &s_.acts;
      args.parts[args.part_count++] = {.w = product.w, .y = product.y + begin * product.w.n, .y_stride = product.w.n};
    }
    if (args.xq != nullptr) {
      SHOAL_RETURN_IF_ERROR(p_.table->quantise(*p_.stream, {.x = from, .out = s_.acts, .tokens = rows, .k = width}));
    }
    return p_.table->matmul(*p_.stream, args);
  });
}

absl::Status DecoderImpl::Reduce(Operation op, float* data, int tokens) {
  if (p_.tensor->size() == 1) return absl::OkStatus();
  Begin(op);
  const int64_t dim = p_.config.hidden;
  return InParts(tokens, kRowsPerCall, [&](int begin, int rows) {
    p_.stream->Advance();
    return p_.tensor->AllReduceSum({data + begin * dim, static_cast<size_t>(rows * dim)});
  });
}

}  // namespace shoal::graph
