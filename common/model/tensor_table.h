// One row per tensor of a model: our name, its shape computed from the config, and the axis along which tensor-parallel
// ranks cut it. The loader, `inspect` and the shard plan all read this table. What the files call a tensor, and in what
// form they hold it, only arrange.h knows: here every checkpoint has these names and shapes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Roles the decoder asks for. Order is the order of use; a matrix's bias follows it. Which of them a model has, its
// config says. Vectors are f32, f16 or bf16 in a file.
enum class Role : uint8_t {
  kEmbedding,          // [vocab, hidden]
  kPositions,          // [max_position, hidden]: learned_positions
  kTokenType,          // [hidden]: token_types, of the first type
  kEmbeddingNorm,      // [hidden]: embedding_norm
  kEmbeddingNormBias,  // [hidden]: norm_bias; so the other norms' below
  kAttnNorm,           // [hidden]: kBefore, kBeforeAndAfter
  kAttnNormBias,
  kQ,      // [heads * head_dim, hidden]
  kQBias,  // [heads * head_dim]: qkv_bias
  kK,      // [kv_heads * head_dim, hidden]
  kKBias,
  kV,  // [kv_heads * head_dim, hidden]
  kVBias,
  kQNorm,         // [head_dim]: qk_norm
  kKNorm,         // [head_dim]
  kO,             // [hidden, heads * head_dim]
  kOBias,         // [hidden]: output_bias
  kAttnPostNorm,  // [hidden]: kBeforeAndAfter, kAfter
  kAttnPostNormBias,
  kFfnNorm,  // [hidden]: kBefore, kBeforeAndAfter
  kFfnNormBias,
  kGate,  // [ffn, hidden]: gated
  kGateBias,
  kUp,  // [ffn, hidden]
  kUpBias,
  kDown,         // [hidden, ffn]
  kDownBias,     // [hidden]
  kRouter,       // [experts, hidden]: layers with experts, which have the next three in place of kGate to kDownBias
  kExpertGate,   // [expert ffn, hidden], one for each expert; so the next two
  kExpertUp,     // [expert ffn, hidden]
  kExpertDown,   // [hidden, expert ffn]
  kFfnPostNorm,  // [hidden]: kBeforeAndAfter, kAfter
  kFfnPostNormBias,
  kFinalNorm,  // [hidden]: final_norm
  kFinalNormBias,
  kHead,  // [vocab, hidden]: kGenerate; absent when tied: the embedding table is read instead
};
inline constexpr int kRoles = static_cast<int>(Role::kHead) + 1;

// How a tensor is cut between the tensor ranks of a stage. A vector has columns only: those kinds that cut rows of a
// matrix cut its bias, a vector, alike.
enum class Shard : uint8_t {
  kReplicated,        // every rank holds all of it
  kFirstRank,         // the first rank holds all of it, the others nothing: what is added once to a sum over ranks
  kVocabRows,         // rows: a range of the vocabulary
  kHeadRows,          // rows: a range of query heads
  kKvHeadRows,        // rows: the kv heads that those query heads touch (neighbours may share one)
  kHeadColumns,       // columns: the same range of query heads
  kFfnRows,           // rows: a range of the feed-forward width
  kFfnColumns,        // columns: the same range
  kExpertFfnRows,     // rows: a range of the experts' feed-forward width, the same of every expert
  kExpertFfnColumns,  // columns: the same range
};

struct TensorSpec {
  Role role;
  int32_t layer;     // -1: outside the layers
  int32_t expert;    // -1: of no expert
  std::string name;  // "layers.7.attn.q", "layers.7.attn.q.bias", "layers.7.experts.3.gate"
  std::vector<int64_t> shape;
  Shard shard;

  bool is_vector() const { return shape.size() == 1; }
  // A matrix that most of the weights are in: what --quantization makes narrow. Not the router: it decides, and is
  // small.
  bool is_layer_matrix() const { return layer >= 0 && !is_vector() && role != Role::kRouter; }
};

// All tensors of a model with this config, embedding first, head last; of a layer's experts all gates, then all ups,
// then all downs. The config is one that CheckConfig has nothing against.
std::vector<TensorSpec> TensorTable(const ModelConfig& config);

// The name of a tensor's row in the table, without layer and expert: "attn.q".
const char* RoleName(Role role);

// What the rows of a matrix of one-byte elements are to be multiplied by: "<name>_scale", one factor for all rows, or
// [rows], or [rows, 1]. Null when there is none.
const TensorEntry* FindRowScale(const TensorIndex& index, const TensorEntry& matrix);

// What is wrong with the type of a tensor, or with the scales of its rows (null: it has none); empty when nothing is.
// `name` and `scale_name`: what the files call them.
std::vector<std::string> CheckType(const TensorSpec& spec, const TensorEntry& tensor, const TensorEntry* scale,
                                   std::string_view name, std::string_view scale_name);

// One Status that lists every tensor that is missing, misshapen or of a type that it cannot be, and those that nothing
// uses, in a checkpoint that has the names of this table.
absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace shoal::model
