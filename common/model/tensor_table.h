// One row per tensor: our name, its names in Hugging Face and GGUF checkpoints, its shape computed from the config, and
// the axis along which tensor-parallel ranks cut it. The loader, `inspect` and the shard plan all read this table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Roles the decoder asks for. Order is the order of use.
enum class Role : uint8_t {
  kEmbedding,  // [vocab, hidden]
  kAttnNorm,   // [hidden]
  kQ,          // [heads * head_dim, hidden]
  kK,          // [kv_heads * head_dim, hidden]
  kV,          // [kv_heads * head_dim, hidden]
  kO,          // [hidden, heads * head_dim]
  kFfnNorm,    // [hidden]
  kGate,       // [ffn, hidden]
  kUp,         // [ffn, hidden]
  kDown,       // [hidden, ffn]
  kFinalNorm,  // [hidden]
  kHead,       // [vocab, hidden]; absent when tied: the embedding table is read instead
};

// How a tensor is cut between the tensor ranks of a stage.
enum class Shard : uint8_t {
  kReplicated,   // every rank holds all of it
  kVocabRows,    // rows: a range of the vocabulary
  kHeadRows,     // rows: a range of query heads
  kKvHeadRows,   // rows: the kv heads that those query heads touch (neighbours may share one)
  kHeadColumns,  // columns: the same range of query heads
  kFfnRows,      // rows: a range of the feed-forward width
  kFfnColumns,   // columns: the same range
};

struct TensorSpec {
  Role role;
  int32_t layer;          // -1: outside the layers
  std::string name;       // ours: "layers.7.attn.q"
  std::string hf_name;    // "model.layers.7.self_attn.q_proj.weight"
  std::string gguf_name;  // "blk.7.attn_q.weight"
  std::vector<int64_t> shape;
  Shard shard;
};

// All tensors of a model with this config, embedding first, head last.
std::vector<TensorSpec> TensorTable(const ModelConfig& config);

// The stored tensor for a row of the table; null when the checkpoint has none.
const TensorEntry* FindStored(const Checkpoint& checkpoint, const TensorSpec& spec);

// What the rows of a matrix of one-byte elements are to be multiplied by, as compressed-tensors and vLLM's fp8
// checkpoints store it: "<name>_scale", one factor for all rows, or [rows], or [rows, 1]. Null when there is none.
const TensorEntry* FindRowScale(const Checkpoint& checkpoint, const TensorEntry& matrix);

// One Status that lists every missing, misshapen or wrongly typed tensor, and those that nothing uses.
absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace shoal::model
