// What a row of the table of families says, for families.cc, which fills it, and the two readers, which follow it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/arrange.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Which layers have the window that a config names.
enum class Windows : uint8_t {
  kNone,       // none: a window that would mask something is refused
  kAll,        // all layers
  kAlternate,  // the first, the third, ...
  kPattern,    // all but each n-th: "sliding_window_pattern"
  kLast,       // those from "max_window_layers" on
};

// What a config may leave unsaid: a key, and the JSON that it then stands for.
struct Unsaid {
  const char* key;
  const char* value;
};
// The same for a key of GGUF metadata, below "<architecture>.".
struct UnsaidNumber {
  const char* key;
  double value;
};

// Keys of config.json that families call differently. Null: the family has none.
struct JsonKeys {
  const char* layers = "num_hidden_layers";
  const char* hidden = "hidden_size";
  const char* heads = "num_attention_heads";
  const char* ffn = "intermediate_size";
  bool ffn_by_width = false;  // 4 * hidden where it is not given
  const char* max_position = "max_position_embeddings";
  const char* norm_eps = "rms_norm_eps";
  const char* activation = "hidden_act";
  const char* experts = nullptr;
  const char* expert_ffn = nullptr;
};

struct Family {
  std::vector<const char*> hf = {};  // config.json "architectures"
  const char* gguf = nullptr;        // GGUF general.architecture, and the prefix of its keys

  ModelConfig properties = {};         // what no config says: the same for all models of the family
  bool embedding_by_width = false;     // embeddings are scaled by sqrt(hidden)
  bool other_rope_in_windows = false;  // layers with a window have the other rotation
  Windows windows = Windows::kNone;

  JsonKeys keys = {};
  std::vector<Unsaid> unsaid = {};      // transformers' defaults, where published configs rely on them
  std::vector<const char*> reads = {};  // of those keys that others have to leave neutral (family_json.cc)
  StoredNames names = {};               // in safetensors

  bool gguf_interleaved = false;               // converters permute the rows of q and k for rotary pairs (2i, 2i + 1)
  std::vector<const char*> gguf_keys = {};     // that not every architecture may have
  std::vector<UnsaidNumber> gguf_unsaid = {};  // llama.cpp's defaults
  int32_t layers_scaled_by_width = 0;  // in the model of so many layers, scores are scaled by 1 / sqrt(hidden / heads)
  StoredNames gguf_names = {};

  bool Reads(std::string_view key) const;
};

// Null: not known.
const Family* FindHfFamily(std::string_view architecture);
const Family* FindGgufFamily(std::string_view architecture);

absl::Status UnknownArchitecture(std::string_view name);

// The end of both readers. `sliding`: [layers], which layers have the window (0: it masks nothing); `with_experts`:
// [layers]. Drops the sizes of what no layer has, and kinds when all layers are alike.
void SetKinds(const Family& family, const std::vector<bool>& sliding, int32_t window,
              const std::vector<bool>& with_experts, ModelConfig* config);
absl::StatusOr<ModelConfig> FinishConfig(const std::string& source, ModelConfig config,
                                         std::vector<std::string> problems);

}  // namespace shoal::model
