// What the decoder needs to know of a model: properties, never a family's name. Filled by families.h from config.json
// or GGUF metadata; sent to agents inside JoinGroup; equal configs give equal computations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal::model {

enum class Activation : uint8_t { kSilu, kGeluTanh };

// Rotary scaling. kLlama3: by wavelength, as in Llama 3.1's reference code.
enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

struct Rope {
  double theta = 10000.0;
  int32_t dim = 0;           // rotated dimensions of a head; the rest pass through
  bool interleaved = false;  // pairs (2i, 2i+1), as GGUF stores llama's q and k; else (i, i + dim/2)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  int32_t original_max_position = 0;

  // 1 / (theta^(2i/dim)) after scaling, i in [0, dim / 2).
  std::vector<double> InverseFrequencies() const;
};

struct ModelConfig {
  std::string architecture;  // as the file names it ("llama", "LlamaForCausalLM"): shown, never branched on
  int32_t layers = 0;
  int32_t hidden = 0;    // width of the residual stream
  int32_t heads = 0;     // query heads
  int32_t kv_heads = 0;  // divides heads
  int32_t head_dim = 0;
  int32_t ffn = 0;           // feed-forward width
  int32_t vocab = 0;         // rows of the embedding table
  int32_t max_position = 0;  // context the model was trained for
  float norm_eps = 1e-5f;
  float embedding_scale = 1.0f;
  float attention_scale = 0.0f;  // 1 / sqrt(head_dim) unless the model says otherwise
  Activation activation = Activation::kSilu;
  bool tied_embeddings = false;  // the output head is the embedding table
  Rope rope;
  int32_t bos_token = -1;           // -1: none
  std::vector<int32_t> eos_tokens;  // any of them ends an answer
};

// Every inconsistency of the config, one line each (heads not a multiple of kv_heads, zero sizes, absurd sizes, widths
// that are no multiple of 32); OK when there is none.
std::vector<std::string> CheckConfig(const ModelConfig& config);

// The query head -> kv head map of grouped attention: head h reads kv head h / (heads / kv_heads).
inline int32_t KvHeadOf(const ModelConfig& c, int32_t head) { return head / (c.heads / c.kv_heads); }

}  // namespace shoal::model
