#include "common/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"

namespace shoal::model {

// Llama 3.1's rule (its reference code, apply_scaling): long waves are slowed by `factor`, short ones stay, those
// between are blended by where original_max_position / wavelength lies in [low_freq_factor, high_freq_factor].
std::vector<double> Rope::InverseFrequencies(int32_t max_context) const {
  std::vector<double> out(static_cast<size_t>(dim / 2));
  const std::vector<double>& divisors = max_context > original_max_position ? long_factors : short_factors;
  for (size_t i = 0; i < out.size(); ++i) {
    const double f = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    out[i] = f;
    if (scaling == RopeScaling::kLinear) out[i] = f / factor;
    if (scaling == RopeScaling::kLongRope) out[i] = f / divisors[i];
    if (scaling == RopeScaling::kLlama3) {
      const double waves = original_max_position * f / (2.0 * std::numbers::pi);  // in the original context
      if (waves < low_freq_factor) {
        out[i] = f / factor;
      } else if (waves <= high_freq_factor) {
        const double smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
        out[i] = (1.0 - smooth) * f / factor + smooth * f;
      }
    }
  }
  return out;
}

namespace {

using Problems = std::vector<std::string>;

// Far above any published model, far below what overflows: products of two of these fit into 64 bits.
constexpr int64_t kMaxLayers = 4096, kMaxHeads = 4096, kMaxHeadDim = 4096, kMaxWidth = 1 << 20, kMaxVocab = 1 << 24;
constexpr int64_t kMaxPosition = 1 << 28;
// Of one layer as kernels/ops/experts.h has them; of all together so that their tensors can be listed.
constexpr int64_t kMaxExperts = 512, kMaxExpertsUsed = 16, kMaxExpertsOfAllLayers = 1 << 17;

bool InRange(const char* what, int64_t value, int64_t most, Problems* problems) {
  const bool good = value >= 1 && value <= most;
  if (!good) problems->push_back(absl::StrCat(what, " is ", value, "; it must lie in [1, ", most, "]"));
  return good;
}

void WholeBlocks(const char* what, int64_t value, Problems* problems) {
  if (value % kQuantBlock == 0) return;
  problems->push_back(absl::StrCat(what, " is ", value, ", no multiple of ", kQuantBlock));
}

void Positive(const char* what, double value, Problems* problems) {
  if (!std::isfinite(value) || value <= 0) problems->push_back(absl::StrCat(what, " is not positive"));
}

void CheckFactors(const char* what, const Rope& r, const std::vector<double>& factors, Problems* problems) {
  const bool sized = factors.size() == static_cast<size_t>(r.dim / 2);
  if (sized && std::all_of(factors.begin(), factors.end(), [](double f) { return std::isfinite(f) && f > 0; })) return;
  problems->push_back(absl::StrCat("rope scaling needs ", r.dim / 2, " positive ", what, " factors"));
}

void CheckRope(const ModelConfig& c, const Rope& r, Problems* problems) {
  if (r.dim == 0) return;
  if (r.dim < 0 || r.dim % 2 != 0 || r.dim > c.head_dim) {
    problems->push_back(absl::StrCat("rope dimensions ", r.dim, " are not an even number in [0, head_dim]"));
    return;
  }
  if (!std::isfinite(r.theta) || r.theta <= 0)
    problems->push_back(absl::StrCat("rope theta ", r.theta, " is not positive"));
  Positive("the amplitude of the rotation", r.amplitude, problems);
  if (r.scaling == RopeScaling::kNone) return;
  if (r.scaling != RopeScaling::kLinear && r.original_max_position <= 0) {
    problems->push_back("rope scaling of the llama3 and longrope kinds lacks original_max_position_embeddings");
  }
  if (r.scaling == RopeScaling::kLongRope) {
    CheckFactors("short", r, r.short_factors, problems);
    CheckFactors("long", r, r.long_factors, problems);
    return;
  }
  if (!std::isfinite(r.factor) || r.factor < 1) {
    problems->push_back(absl::StrCat("rope scaling factor ", r.factor, " is below 1"));
  }
  if (r.scaling != RopeScaling::kLlama3) return;
  if (!(r.low_freq_factor > 0) || !(r.high_freq_factor > r.low_freq_factor) || !std::isfinite(r.high_freq_factor)) {
    problems->push_back(absl::StrCat("rope scaling needs 0 < low_freq_factor < high_freq_factor; they are ",
                                     r.low_freq_factor, " and ", r.high_freq_factor));
  }
}

void CheckRopes(const ModelConfig& c, Problems* problems) {
  CheckRope(c, c.rope, problems);
  if (std::none_of(c.kinds.begin(), c.kinds.end(), [](const LayerKind& k) { return k.other_rope; })) return;
  CheckRope(c, c.other_rope, problems);
  if (c.other_rope.dim != c.rope.dim || c.other_rope.interleaved != c.rope.interleaved) {
    problems->push_back("the two rotations differ in their dimensions or their order");
  }
}

// Feed-forward networks and experts: those that layers have, and no others.
void CheckFeedForward(const ModelConfig& c, Problems* problems) {
  if (!c.kinds.empty() && c.kinds.size() != static_cast<size_t>(std::max(c.layers, 0))) {
    problems->push_back(absl::StrCat(c.kinds.size(), " kinds of layers for ", c.layers, " layers"));
    return;
  }
  int64_t with_experts = 0;
  for (const LayerKind& kind : c.kinds) {
    with_experts += kind.has_experts ? 1 : 0;
    if (kind.window >= 0 && kind.window <= kMaxPosition) continue;
    problems->push_back(absl::StrCat("a window of ", kind.window, " positions"));
    return;
  }
  if (with_experts < std::max(c.layers, 1)) {
    if (InRange("feed-forward size", c.ffn, kMaxWidth, problems)) WholeBlocks("feed-forward size", c.ffn, problems);
  } else if (c.ffn != 0) {
    problems->push_back(absl::StrCat("a feed-forward size of ", c.ffn, ", but all layers have experts"));
  }
  const Experts& e = c.experts;
  if (with_experts == 0) {
    if (e.count != 0) problems->push_back(absl::StrCat(e.count, " experts, but no layer has them"));
    return;
  }
  if (InRange("experts", e.count, kMaxExperts, problems)) {
    InRange("experts used by a token", e.used, std::min<int64_t>(e.count, kMaxExpertsUsed), problems);
    InRange("experts of all layers", e.count * with_experts, kMaxExpertsOfAllLayers, problems);
  }
  if (InRange("feed-forward size of experts", e.ffn, kMaxWidth, problems)) {
    WholeBlocks("feed-forward size of experts", e.ffn, problems);
  }
  if (c.ffn_bias || !c.gated) problems->push_back("experts with biases or without a gate are not supported");
}

void CheckScales(const ModelConfig& c, Problems* problems) {
  Positive("the norm epsilon", c.norm_eps, problems);
  Positive("the attention scale", c.attention_scale, problems);
  Positive("the embedding scale", c.embedding_scale, problems);
  Positive("the scale of logits", c.logit_scale, problems);
  if (!std::isfinite(c.norm_weight_bias)) problems->push_back("the bias of norm weights is not a number");
  for (const float cap : {c.attention_soft_cap, c.logit_soft_cap}) {
    if (!std::isfinite(cap) || cap < 0) problems->push_back(absl::StrCat("a soft cap of ", cap));
  }
}

}  // namespace

std::vector<std::string> CheckConfig(const ModelConfig& c) {
  Problems problems;
  InRange("layers", c.layers, kMaxLayers, &problems);
  if (InRange("hidden size", c.hidden, kMaxWidth, &problems)) WholeBlocks("hidden size", c.hidden, &problems);
  bool heads = InRange("query heads", c.heads, kMaxHeads, &problems);
  heads &= InRange("kv heads", c.kv_heads, kMaxHeads, &problems);
  heads &= InRange("head size", c.head_dim, kMaxHeadDim, &problems);
  InRange("vocabulary", c.vocab, kMaxVocab, &problems);
  InRange("context length", c.max_position, kMaxPosition, &problems);
  CheckFeedForward(c, &problems);
  if (heads) {
    if (c.heads % c.kv_heads != 0) {
      problems.push_back(absl::StrCat(c.heads, " query heads are no multiple of ", c.kv_heads, " kv heads"));
    }
    WholeBlocks("query heads x head size", static_cast<int64_t>(c.heads) * c.head_dim, &problems);
    CheckRopes(c, &problems);
  }
  CheckScales(c, &problems);
  if (c.norm == Norm::kRms && c.norm_bias) problems.push_back("RMS norms with biases are not supported");
  if (c.norm == Norm::kLayer && c.qk_norm) problems.push_back("LayerNorm of q and k is not supported");
  if (!c.has_head() && c.tied_embeddings) problems.push_back("an output head of a model that gives vectors");
  const auto token = [&](const char* what, int32_t id) {
    if (id < 0 || id >= c.vocab) {
      problems.push_back(absl::StrCat(what, " token ", id, " is outside the vocabulary of ", c.vocab));
    }
  };
  if (c.bos_token != -1) token("bos", c.bos_token);
  for (const int32_t id : c.eos_tokens) token("eos", id);
  return problems;
}

}  // namespace shoal::model
