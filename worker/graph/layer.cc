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

absl::Status DecoderImpl::Layer(const weights::LayerWeights& w, const ops::KvLayer& cache, ops::ConstActs pending) {
  SHOAL_RETURN_IF_ERROR(AttentionBlock(w, cache, pending));
  return FeedForwardBlock(w);
}

absl::Status DecoderImpl::AttentionBlock(const weights::LayerWeights& w, const ops::KvLayer& cache,
                                         ops::ConstActs pending) {
  const int tokens = b_.tokens();
  SHOAL_RETURN_IF_ERROR(Norm(Operation::kAttentionNorm, s_.x, pending, w.attn_norm, s_.h, tokens));
  SHOAL_RETURN_IF_ERROR(Fold(s_.h));
  SHOAL_RETURN_IF_ERROR(
      Multiply(Operation::kQkv, s_.h, tokens, p_.config.hidden, {{w.q, s_.q}, {w.k, s_.k}, {w.v, s_.v}}));
  SHOAL_RETURN_IF_ERROR(WriteCache(cache));
  SHOAL_RETURN_IF_ERROR(Attend(cache));
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kAttentionOutput, s_.attended, tokens, q_dim(), {{w.o, s_.partial}}));
  return Reduce(Operation::kReduceAttention, s_.partial, tokens);
}

absl::Status DecoderImpl::WriteCache(const ops::KvLayer& cache) {
  Start(Operation::kRope);
  const int64_t half = p_.config.rope.dim / 2;
  return InParts(b_.tokens(), [&](int begin, int rows) {
    // Without a row of angles for each token, rows of angles go along with the tokens.
    const bool by_token = b_.angles() == nullptr;
    return p_.table->rope_kv(*p_.stream, {.q = Row(s_.q, begin, q_dim()),
                                          .k = Row(s_.k, begin, kv_dim()),
                                          .v = Row(s_.v, begin, kv_dim()),
                                          .q_stride = q_dim(),
                                          .kv_stride = kv_dim(),
                                          .cos = b_.cos() + (by_token ? begin * half : 0),
                                          .sin = b_.sin() + (by_token ? begin * half : 0),
                                          .angles = by_token ? nullptr : b_.angles() + begin,
                                          .slots = b_.slots() + begin,
                                          .cache = cache,
                                          .tokens = rows,
                                          .q_heads = p_.shard.heads.size(),
                                          .rot_dim = p_.config.rope.dim,
                                          .interleaved = p_.config.rope.interleaved});
  });
}

absl::Status DecoderImpl::Attend(const ops::KvLayer& cache) {
  Start(Operation::kAttention);
  const ops::AttentionPlanShape shape = b_.plan_shape();
  for (const StagedBatch::Part& part : b_.parts()) {
    SHOAL_RETURN_IF_ERROR(p_.table->attention(*p_.stream, {.q = s_.q,
                                                           .out = s_.attended,
                                                           .q_stride = q_dim(),
                                                           .cache = cache,
                                                           .sequences = b_.sequences() + part.first,
                                                           .sequence_count = part.count,
                                                           .q_to_kv = reinterpret_cast<const int32_t*>(q_to_kv_.data()),
                                                           .q_heads = p_.shard.heads.size(),
                                                           .q_head_begin = p_.shard.heads.begin,
                                                           .scale = p_.config.attention_scale,
                                                           .workspace = s_.workspace,
                                                           .plan = b_.plan(),
                                                           .plan_shape = &shape}));
  }
  return absl::OkStatus();
}

absl::Status DecoderImpl::Activate() {
  Start(Operation::kActivation);
  const int64_t ffn = p_.shard.ffn.size();
  return InParts(b_.tokens(), [&](int begin, int rows) {
    return p_.table->glu(*p_.stream, {.gate = Row(s_.gate, begin, ffn),
                                      .up = Row(s_.up, begin, ffn),
                                      .y = Row(s_.gate, begin, ffn),
                                      .tokens = rows,
                                      .dim = static_cast<int>(ffn),
                                      .activation = ToOps(p_.config.activation)});
  });
}

absl::Status DecoderImpl::FeedForwardBlock(const weights::LayerWeights& w) {
  const int ffn = p_.shard.ffn.size(), tokens = b_.tokens();
  SHOAL_RETURN_IF_ERROR(Norm(Operation::kFfnNorm, s_.x, s_.partial, w.ffn_norm, s_.h, tokens));
  SHOAL_RETURN_IF_ERROR(Fold(s_.h));
  SHOAL_RETURN_IF_ERROR(
      Multiply(Operation::kGateUp, s_.h, tokens, p_.config.hidden, {{w.gate, s_.gate}, {w.up, s_.up}}));
  SHOAL_RETURN_IF_ERROR(Activate());
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kDown, s_.gate, tokens, ffn, {{w.down, s_.partial}}));
  return Reduce(Operation::kReduceFfn, s_.partial, tokens);
}

absl::Status DecoderImpl::Norm(Operation op, ops::Acts x, ops::ConstActs add, const float* w, ops::Acts y, int tokens) {
  Start(op);
  const int64_t dim = p_.config.hidden;
  return InParts(tokens, [&](int begin, int rows) {
    return p_.table->rms_norm(*p_.stream, {.x = Row(x, begin, dim),
                                           .add = add.data() == nullptr ? nullptr : Row(add, begin, dim),
                                           .w = w,
                                           .y = Row(y, begin, dim),
                                           .tokens = rows,
                                           .dim = static_cast<int>(dim),
                                           .eps = p_.config.norm_eps,
                                           .weight_bias = 0});
  });
}

absl::Status DecoderImpl::Multiply(Operation op, ops::ConstActs x, int tokens, int64_t k,
                                   std::initializer_list<Product> products) {
  Start(op);
  const bool logits = op == Operation::kHead;
  const auto width = static_cast<int>(k);
  return InParts(tokens, [&](int begin, int rows) -> absl::Status {
    const ops::ConstActs from = Row(x, begin, k);
    ops::MatmulArgs args = {
        .x = from, .xq = nullptr, .parts = {}, .part_count = 0, .tokens = rows, .k = width, .f32_out = logits};
    for (const Product& product : products) {
      SHOAL_CHECK(args.part_count < ops::kMaxMatmulParts && product.w.k == k);
      if (p_.table->quantises(product.w.dtype)) args.xq = &s_.acts;
      const int64_t n = product.w.n;
      const ops::Acts y = logits ? ops::Acts(product.y.as<float>() + begin * n) : Row(product.y, begin, n);
      args.parts[args.part_count++] = {.w = product.w, .y = y, .y_stride = n};
    }
    if (args.xq != nullptr) {
      SHOAL_RETURN_IF_ERROR(p_.table->quantise(*p_.stream, {.x = from, .out = s_.acts, .tokens = rows, .k = width}));
    }
    return p_.table->matmul(*p_.stream, args);
  });
}

absl::Status DecoderImpl::Reduce(Operation op, ops::Acts data, int tokens) {
  if (p_.tensor->size() == 1) return absl::OkStatus();
  Start(op);
  const int64_t dim = p_.config.hidden;
  return InParts(tokens, [&](int begin, int rows) {
    p_.stream->Advance();
    return p_.tensor->AllReduceSum(Row(data, begin, dim), rows * dim);
  });
}

}  // namespace shoal::graph
