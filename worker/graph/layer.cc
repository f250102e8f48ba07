// Tested by: tests/graph/golden_test.cc
// One layer of the decoder, in the order of the header.
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "worker/graph/decoder_impl.h"

namespace shoal::graph {
namespace {

ops::Activation ToOps(model::Activation a) {
  switch (a) {
    case model::Activation::kSilu:
      return ops::Activation::kSilu;
    case model::Activation::kGeluTanh:
      return ops::Activation::kGeluTanh;
    case model::Activation::kGelu:
      break;
  }
  return ops::Activation::kGelu;
}

}  // namespace

absl::StatusOr<ops::ConstActs> DecoderImpl::Input(Operation op, const weights::NormWeights& norm) {
  const ops::ConstActs pending = std::exchange(pending_, nullptr);
  if (p_.config.norm_place == model::NormPlace::kAfter) {
    SHOAL_RETURN_IF_ERROR(Fold(s_.x));
    return ops::ConstActs(s_.x);
  }
  SHOAL_RETURN_IF_ERROR(Norm(op, s_.x, pending, norm, s_.h, b_.tokens()));
  SHOAL_RETURN_IF_ERROR(Fold(s_.h));
  return ops::ConstActs(s_.h);
}

absl::Status DecoderImpl::Output(Operation op, const weights::NormWeights& post_norm) {
  if (p_.config.norm_place == model::NormPlace::kAfter) return Norm(op, s_.x, s_.partial, post_norm, s_.x, b_.tokens());
  pending_ = s_.partial;
  if (p_.config.norm_place == model::NormPlace::kBefore) return absl::OkStatus();
  return Norm(op, s_.partial, nullptr, post_norm, s_.partial, b_.tokens());
}

absl::Status DecoderImpl::AttentionBlock(const Layer& layer) {
  const weights::LayerWeights& w = layer.w;
  const int tokens = b_.tokens();
  SHOAL_ASSIGN_OR_RETURN(const ops::ConstActs input, Input(Operation::kAttentionNorm, w.attn_norm));
  SHOAL_RETURN_IF_ERROR(
      Multiply(Operation::kQkv, input, tokens, p_.config.hidden, {{w.q, s_.q}, {w.k, s_.k}, {w.v, s_.v}}));
  if (p_.config.qk_norm) SHOAL_RETURN_IF_ERROR(NormHeads(w));
  SHOAL_RETURN_IF_ERROR(WriteCache(layer));
  SHOAL_RETURN_IF_ERROR(Attend(layer));
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kAttentionOutput, s_.attended, tokens, q_dim(), {{w.o, s_.partial}}));
  SHOAL_RETURN_IF_ERROR(Reduce(Operation::kReduceAttention, s_.partial, tokens));
  return Output(Operation::kAttentionNorm, w.attn_post_norm);
}

// Each head of a token is a row.
absl::Status DecoderImpl::NormHeads(const weights::LayerWeights& w) {
  Start(Operation::kQkNorm);
  const int64_t dim = p_.config.head_dim;
  const auto norm = [&](ops::Acts rows, const float* weight, int heads) {
    return InParts(b_.tokens(), [&](int begin, int tokens) {
      const ops::Acts at = Row(rows, begin, heads * dim);
      return p_.table->rms_norm(*p_.stream, {.x = at,
                                             .add = nullptr,
                                             .w = weight,
                                             .y = at,
                                             .tokens = tokens * heads,
                                             .dim = static_cast<int>(dim),
                                             .eps = p_.config.norm_eps,
                                             .weight_bias = p_.config.norm_weight_bias});
    });
  };
  SHOAL_RETURN_IF_ERROR(norm(s_.q, w.q_norm, p_.shard.heads.size()));
  return norm(s_.k, w.k_norm, p_.shard.kv_heads.size());
}

absl::Status DecoderImpl::WriteCache(const Layer& layer) {
  Start(Operation::kRope);
  const model::Rope& rope = layer.kind.other_rope ? p_.config.other_rope : p_.config.rope;
  const StagedBatch::Angles angles = b_.angles(layer.kind.other_rope);
  const int64_t half = rope.dim / 2;
  return InParts(b_.tokens(), [&](int begin, int rows) {
    // Without a row of angles for each token, rows of angles go along with the tokens.
    const bool by_token = angles.rows == nullptr;
    return p_.table->rope_kv(*p_.stream, {.q = Row(s_.q, begin, q_dim()),
                                          .k = Row(s_.k, begin, kv_dim()),
                                          .v = Row(s_.v, begin, kv_dim()),
                                          .q_stride = q_dim(),
                                          .kv_stride = kv_dim(),
                                          .cos = angles.cos + (by_token ? begin * half : 0),
                                          .sin = angles.sin + (by_token ? begin * half : 0),
                                          .angles = by_token ? nullptr : angles.rows + begin,
                                          .slots = b_.slots() + begin,
                                          .cache = layer.cache,
                                          .tokens = rows,
                                          .q_heads = p_.shard.heads.size(),
                                          .rot_dim = rope.dim,
                                          .interleaved = rope.interleaved});
  });
}

absl::Status DecoderImpl::Attend(const Layer& layer) {
  Start(Operation::kAttention);
  const ops::AttentionPlanShape shape = b_.plan_shape();
  for (const StagedBatch::Part& part : b_.parts()) {
    SHOAL_RETURN_IF_ERROR(p_.table->attention(*p_.stream, {.q = s_.q,
                                                           .out = s_.attended,
                                                           .q_stride = q_dim(),
                                                           .cache = layer.cache,
                                                           .sequences = b_.sequences() + part.first,
                                                           .sequence_count = part.count,
                                                           .q_to_kv = reinterpret_cast<const int32_t*>(q_to_kv_.data()),
                                                           .q_heads = p_.shard.heads.size(),
                                                           .q_head_begin = p_.shard.heads.begin,
                                                           .scale = p_.config.attention_scale,
                                                           .workspace = s_.workspace,
                                                           .window = layer.kind.window,
                                                           .soft_cap = p_.config.attention_soft_cap,
                                                           .causal = p_.config.causal,
                                                           .plan = b_.plan(),
                                                           .plan_shape = &shape}));
  }
  return absl::OkStatus();
}

absl::Status DecoderImpl::Activate(ops::Acts gate, ops::ConstActs up, int64_t width, int rows) {
  return InParts(rows, [&](int begin, int count) {
    const ops::Acts y = Row(gate, begin, width);
    return p_.table->glu(*p_.stream, {.gate = y,
                                      .up = up.data() == nullptr ? nullptr : Row(up, begin, width),
                                      .y = y,
                                      .tokens = count,
                                      .dim = static_cast<int>(width),
                                      .activation = ToOps(p_.config.activation)});
  });
}

absl::Status DecoderImpl::FeedForwardBlock(const Layer& layer) {
  SHOAL_ASSIGN_OR_RETURN(const ops::ConstActs input, Input(Operation::kFfnNorm, layer.w.ffn_norm));
  SHOAL_RETURN_IF_ERROR(layer.kind.has_experts ? Experts(layer.w, input) : Dense(layer.w, input));
  SHOAL_RETURN_IF_ERROR(Reduce(Operation::kReduceFfn, s_.partial, b_.tokens()));
  return Output(Operation::kFfnNorm, layer.w.ffn_post_norm);
}

absl::Status DecoderImpl::Dense(const weights::LayerWeights& w, ops::ConstActs input) {
  const int ffn = p_.shard.ffn.size(), tokens = b_.tokens();
  const int64_t hidden = p_.config.hidden;
  const bool gated = p_.config.gated;
  SHOAL_RETURN_IF_ERROR(gated ? Multiply(Operation::kGateUp, input, tokens, hidden, {{w.gate, s_.gate}, {w.up, s_.up}})
                              : Multiply(Operation::kGateUp, input, tokens, hidden, {{w.up, s_.gate}}));
  Start(Operation::kActivation);
  SHOAL_RETURN_IF_ERROR(Activate(s_.gate, gated ? s_.up : nullptr, ffn, tokens));
  return Multiply(Operation::kDown, s_.gate, tokens, ffn, {{w.down, s_.partial}});
}

absl::Status DecoderImpl::Norm(Operation op, ops::Acts x, ops::ConstActs add, const weights::NormWeights& w,
                               ops::Acts y, int tokens) {
  Start(op);
  const int64_t dim = p_.config.hidden;
  return InParts(tokens, [&](int begin, int rows) {
    const ops::ConstActs joined = add.data() == nullptr ? nullptr : Row(add, begin, dim);
    if (p_.config.norm == model::Norm::kLayer) {
      return p_.table->layer_norm(*p_.stream, {.x = Row(x, begin, dim),
                                               .add = joined,
                                               .w = w.weight,
                                               .bias = w.bias,
                                               .y = Row(y, begin, dim),
                                               .tokens = rows,
                                               .dim = static_cast<int>(dim),
                                               .eps = p_.config.norm_eps});
    }
    return p_.table->rms_norm(*p_.stream, {.x = Row(x, begin, dim),
                                           .add = joined,
                                           .w = w.weight,
                                           .y = Row(y, begin, dim),
                                           .tokens = rows,
                                           .dim = static_cast<int>(dim),
                                           .eps = p_.config.norm_eps,
                                           .weight_bias = p_.config.norm_weight_bias});
  });
}

absl::Status DecoderImpl::Multiply(Operation op, ops::ConstActs x, int tokens, int64_t k,
                                   std::initializer_list<Product> products) {
  Start(op);
  const bool logits = op == Operation::kHead || op == Operation::kRoute;
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
