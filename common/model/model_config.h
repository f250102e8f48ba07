// What the decoder needs to know of a model: properties, never a family's name. Filled by families.h from config.json
// or GGUF metadata; sent to ranks in their setup; equal configs give equal computations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal::model {

enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu };
enum class Norm : uint8_t { kRms, kLayer };
// Where a block (attention, feed-forward) is normed. x + f(norm(x));   x + norm(f(norm(x)));   norm(x + f(x)).
enum class NormPlace : uint8_t { kBefore, kBeforeAndAfter, kAfter };
// What becomes of the hidden states: the next token, or one vector for a sequence.
enum class Task : uint8_t { kGenerate, kEmbed };
enum class Pooling : uint8_t { kFirst, kLast, kMean };

// Rotary scaling. kLlama3: by wavelength, as in Llama 3.1's reference code. kLongRope: a factor for each frequency
// (Ding et al., arXiv 2402.13753), those for long contexts when the context that is served is longer than the original.
enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kLongRope };

struct Rope {
  double theta = 10000.0;
  int32_t dim = 0;           // rotated dimensions of a head, the rest pass through; 0: no rotation
  bool interleaved = false;  // pairs (2i, 2i+1), as GGUF stores llama's q and k; else (i, i + dim/2)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  int32_t original_max_position = 0;
  std::vector<double> short_factors = {}, long_factors = {};  // kLongRope: [dim / 2], what frequencies are divided by
  double amplitude = 1.0;                                     // of cos and sin

  // 1 / (theta^(2i/dim)) after scaling, i in [0, dim / 2), when contexts of `max_context` tokens are served.
  std::vector<double> InverseFrequencies(int32_t max_context) const;

  bool operator==(const Rope&) const = default;
};

// In what a layer differs from others.
struct LayerKind {
  int32_t window = 0;        // positions that a token sees, its own among them; 0: all before
  bool other_rope = false;   // ModelConfig::other_rope instead of rope
  bool has_experts = false;  // instead of one feed-forward network

  bool operator==(const LayerKind&) const = default;
};

struct Experts {
  int32_t count = 0;         // 0: none
  int32_t used = 0;          // by each token
  int32_t ffn = 0;           // width of each
  bool renormalise = false;  // the weights of those used sum to 1

  bool operator==(const Experts&) const = default;
};

struct ModelConfig {
  std::string architecture;  // as the file names it ("llama", "LlamaForCausalLM"): shown, never branched on
  Task task = Task::kGenerate;
  int32_t layers = 0;
  int32_t hidden = 0;    // width of the residual stream
  int32_t heads = 0;     // query heads
  int32_t kv_heads = 0;  // divides heads
  int32_t head_dim = 0;
  int32_t ffn = 0;                    // feed-forward width of layers without experts; 0: there are none
  int32_t vocab = 0;                  // rows of the embedding table
  int32_t max_position = 0;           // context the model was trained for
  std::vector<LayerKind> kinds = {};  // [layers]; empty: all as LayerKind() says

  Norm norm = Norm::kRms;
  NormPlace norm_place = NormPlace::kBefore;
  bool final_norm = true;
  bool qk_norm = false;  // of each head's q and k, before the rotation; kRms
  float norm_eps = 1e-5f;
  float norm_weight_bias = 0.0f;  // norms multiply by (w + this)

  bool qkv_bias = false, output_bias = false, ffn_bias = false, norm_bias = false;
  bool causal = true;
  float attention_scale = 0.0f;     // 1 / sqrt(head_dim) unless the model says otherwise
  float attention_soft_cap = 0.0f;  // of scores; 0: none

  Activation activation = Activation::kSilu;
  bool gated = true;     // act(gate) * up; else act(up)
  Experts experts = {};  // gated, without biases

  float embedding_scale = 1.0f;
  bool embedding_norm = false;
  bool learned_positions = false;  // added to embeddings; the table has max_position rows
  bool token_types = false;        // the vector of the first type is added to every embedding
  bool tied_embeddings = false;    // kGenerate: the output head is the embedding table
  float logit_scale = 1.0f;
  float logit_soft_cap = 0.0f;      // 0: none
  Rope rope = {}, other_rope = {};  // of one dim and one order; other_rope counts where a layer has it

  Pooling pooling = Pooling::kMean;      // kEmbed
  bool normalise = true;                 // kEmbed: vectors have length 1
  int32_t bos_token = -1;                // -1: none
  std::vector<int32_t> eos_tokens = {};  // any of them ends an answer

  LayerKind kind(int32_t layer) const { return kinds.empty() ? LayerKind() : kinds[static_cast<size_t>(layer)]; }
  bool has_head() const { return task == Task::kGenerate; }

  bool operator==(const ModelConfig&) const = default;
};

// Every inconsistency of the config, one line each (heads not a multiple of kv_heads, zero sizes, absurd sizes, widths
// that are no multiple of 32, experts that no layer has); empty when there is none. Nothing else may be asked of a
// config for which there is one.
std::vector<std::string> CheckConfig(const ModelConfig& config);

// The query head -> kv head map of grouped attention: head h reads kv head h / (heads / kv_heads).
inline int32_t KvHeadOf(const ModelConfig& c, int32_t head) { return head / (c.heads / c.kv_heads); }

}  // namespace shoal::model
