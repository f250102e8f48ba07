// Tested by: tests/graph/families_test.cc
// A layer's experts. The router's logits and what follows of them are the same on every tensor rank; each rank has a
// range of the width of every expert.
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "worker/graph/decoder_impl.h"

namespace shoal::graph {

// On a host a part of the tokens at a time: there is progress between two calls, and less memory.
absl::Status DecoderImpl::Experts(const weights::LayerWeights& w, ops::ConstActs input) {
  const int64_t hidden = p_.config.hidden;
  return InParts(b_.tokens(), [&](int begin, int tokens) {
    return ExpertsOf(w, Row(input, begin, hidden), Row(s_.partial, begin, hidden), tokens);
  });
}

absl::Status DecoderImpl::ExpertsOf(const weights::LayerWeights& w, ops::ConstActs input, ops::Acts out, int tokens) {
  const model::Experts& e = p_.config.experts;
  const int64_t hidden = p_.config.hidden, ffn = p_.shard.expert_ffn.size();
  const int rows = tokens * e.used;
  SHOAL_RETURN_IF_ERROR(Multiply(Operation::kRoute, input, tokens, hidden, {{w.router, ops::Acts(s_.router_logits)}}));
  SHOAL_RETURN_IF_ERROR(p_.table->route(*p_.stream, {.logits = s_.router_logits,
                                                     .out = s_.routes,
                                                     .tokens = tokens,
                                                     .experts = e.count,
                                                     .used = e.used,
                                                     .renormalise = e.renormalise}));
  Start(Operation::kExperts);
  SHOAL_RETURN_IF_ERROR(p_.table->gather_rows(
      *p_.stream,
      {.x = input, .rows = s_.routes.tokens, .y = s_.expert_x, .count = rows, .dim = static_cast<int>(hidden)}));
  SHOAL_RETURN_IF_ERROR(
      MultiplyExperts(s_.expert_x, rows, hidden, {{w.expert_gate, s_.expert_gate}, {w.expert_up, s_.expert_up}}));
  SHOAL_RETURN_IF_ERROR(Activate(s_.expert_gate, s_.expert_up, ffn, rows));
  SHOAL_RETURN_IF_ERROR(MultiplyExperts(s_.expert_gate, rows, ffn, {{w.expert_down, s_.expert_x}}));
  return p_.table->join_experts(*p_.stream, {.y = s_.expert_x,
                                             .weights = s_.routes.weights,
                                             .sorted = s_.routes.sorted,
                                             .out = out,
                                             .tokens = tokens,
                                             .used = e.used,
                                             .dim = static_cast<int>(hidden)});
}

absl::Status DecoderImpl::MultiplyExperts(ops::ConstActs x, int rows, int64_t k,
                                          std::initializer_list<ops::ExpertMatmulArgs::Part> parts) {
  ops::ExpertMatmulArgs args = {.x = x,
                                .xq = nullptr,
                                .parts = {},
                                .part_count = 0,
                                .first = s_.routes.first,
                                .rows = rows,
                                .k = static_cast<int>(k),
                                .experts = p_.config.experts.count};
  for (const ops::ExpertMatmulArgs::Part& part : parts) {
    SHOAL_CHECK(args.part_count < ops::kMaxExpertParts && part.w.first.k == k);
    if (p_.table->quantises(part.w.first.dtype)) args.xq = &s_.acts;
    args.parts[args.part_count++] = part;
  }
  if (args.xq != nullptr) {
    const auto width = static_cast<int>(k);
    SHOAL_RETURN_IF_ERROR(p_.table->quantise(*p_.stream, {.x = x, .out = s_.acts, .tokens = rows, .k = width}));
  }
  return p_.table->expert_matmul(*p_.stream, args);
}

}  // namespace shoal::graph
