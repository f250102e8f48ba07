#include "common/model/model_config.h"

#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"

namespace shoal::model {

// Llama 3.1's rule (its reference code, apply_scaling): long waves are slowed by `factor`, short ones stay, those
// between are blended by where original_max_position / wavelength lies in [low_freq_factor, high_freq_factor].
std::vector<double> Rope::InverseFrequencies() const {
  std::vector<double> out(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const double f = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    out[i] = f;
    if (scaling == RopeScaling::kLinear) out[i] = f / factor;
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

// Far above any published model, far below what overflows: products of two of these fit into 64 bits.
constexpr int64_t kMaxLayers = 4096, kMaxHeads = 4096, kMaxHeadDim = 4096, kMaxWidth = 1 << 20, kMaxVocab = 1 << 24;
constexpr int64_t kMaxPosition = 1 << 28;

void CheckRope(const ModelConfig& c, std::vector<std::string>* problems) {
  const Rope& r = c.rope;
  if (r.dim <= 0 || r.dim % 2 != 0 || r.dim > c.head_dim) {
    problems->push_back(absl::StrCat("rope dimensions ", r.dim, " are not an even number in [2, head_dim]"));
  }
  if (!std::isfinite(r.theta) || r.theta <= 0)
    problems->push_back(absl::StrCat("rope theta ", r.theta, " is not positive"));
  if (r.scaling == RopeScaling::kNone) return;
  if (!std::isfinite(r.factor) || r.factor < 1) {
    problems->push_back(absl::StrCat("rope scaling factor ", r.factor, " is below 1"));
  }
  if (r.scaling != RopeScaling::kLlama3) return;
  if (!(r.low_freq_factor > 0) || !(r.high_freq_factor > r.low_freq_factor) || !std::isfinite(r.high_freq_factor)) {
    problems->push_back(absl::StrCat("rope scaling needs 0 < low_freq_factor < high_freq_factor; they are ",
                                     r.low_freq_factor, " and ", r.high_freq_factor));
  }
  if (r.original_max_position <= 0) {
    problems->push_back("rope scaling of the llama3 kind lacks original_max_position_embeddings");
  }
}

}  // namespace

std::vector<std::string> CheckConfig(const ModelConfig& c) {
  std::vector<std::string> problems;
  const auto in_range = [&](const char* what, int64_t value, int64_t most) {
    const bool good = value >= 1 && value <= most;
    if (!good) problems.push_back(absl::StrCat(what, " is ", value, "; it must lie in [1, ", most, "]"));
    return good;
  };
  in_range("layers", c.layers, kMaxLayers);
  const bool hidden = in_range("hidden size", c.hidden, kMaxWidth);
  bool heads = in_range("query heads", c.heads, kMaxHeads);
  heads &= in_range("kv heads", c.kv_heads, kMaxHeads);
  heads &= in_range("head size", c.head_dim, kMaxHeadDim);
  const bool ffn = in_range("feed-forward size", c.ffn, kMaxWidth);
  in_range("vocabulary", c.vocab, kMaxVocab);
  in_range("context length", c.max_position, kMaxPosition);
  const auto whole_blocks = [&](const char* what, int64_t value) {
    if (value % kQuantBlock == 0) return;
    problems.push_back(absl::StrCat(what, " is ", value, ", no multiple of ", kQuantBlock));
  };
  if (hidden) whole_blocks("hidden size", c.hidden);
  if (ffn) whole_blocks("feed-forward size", c.ffn);
  if (heads) {
    if (c.heads % c.kv_heads != 0) {
      problems.push_back(absl::StrCat(c.heads, " query heads are no multiple of ", c.kv_heads, " kv heads"));
    }
    whole_blocks("query heads x head size", static_cast<int64_t>(c.heads) * c.head_dim);
    CheckRope(c, &problems);
  }
  if (!std::isfinite(c.norm_eps) || c.norm_eps <= 0) problems.push_back("the norm epsilon is not positive");
  if (!std::isfinite(c.attention_scale) || c.attention_scale <= 0)
    problems.push_back("the attention scale is not positive");
  if (!std::isfinite(c.embedding_scale) || c.embedding_scale <= 0)
    problems.push_back("the embedding scale is not positive");
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
