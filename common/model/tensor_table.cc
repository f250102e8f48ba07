#include "common/model/tensor_table.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::model {
namespace {

// {L} in the names stands for the layer.
struct Row {
  Role role;
  const char* name;
  const char* hf_name;
  const char* gguf_name;
  std::vector<int64_t> shape;
  Shard shard;
};

struct Rows {
  std::vector<Row> before, layer, after;
};

Rows RowsOf(const ModelConfig& c) {
  const int64_t q = static_cast<int64_t>(c.heads) * c.head_dim, kv = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  // clang-format off
  Rows rows = {
      {{Role::kEmbedding, "embedding", "model.embed_tokens.weight", "token_embd.weight", {c.vocab, c.hidden}, Shard::kVocabRows}},
      {{Role::kAttnNorm, "layers.{L}.attn.norm", "model.layers.{L}.input_layernorm.weight", "blk.{L}.attn_norm.weight", {c.hidden}, Shard::kReplicated},
       {Role::kQ, "layers.{L}.attn.q", "model.layers.{L}.self_attn.q_proj.weight", "blk.{L}.attn_q.weight", {q, c.hidden}, Shard::kHeadRows},
       {Role::kK, "layers.{L}.attn.k", "model.layers.{L}.self_attn.k_proj.weight", "blk.{L}.attn_k.weight", {kv, c.hidden}, Shard::kKvHeadRows},
       {Role::kV, "layers.{L}.attn.v", "model.layers.{L}.self_attn.v_proj.weight", "blk.{L}.attn_v.weight", {kv, c.hidden}, Shard::kKvHeadRows},
       {Role::kO, "layers.{L}.attn.o", "model.layers.{L}.self_attn.o_proj.weight", "blk.{L}.attn_output.weight", {c.hidden, q}, Shard::kHeadColumns},
       {Role::kFfnNorm, "layers.{L}.ffn.norm", "model.layers.{L}.post_attention_layernorm.weight", "blk.{L}.ffn_norm.weight", {c.hidden}, Shard::kReplicated},
       {Role::kGate, "layers.{L}.ffn.gate", "model.layers.{L}.mlp.gate_proj.weight", "blk.{L}.ffn_gate.weight", {c.ffn, c.hidden}, Shard::kFfnRows},
       {Role::kUp, "layers.{L}.ffn.up", "model.layers.{L}.mlp.up_proj.weight", "blk.{L}.ffn_up.weight", {c.ffn, c.hidden}, Shard::kFfnRows},
       {Role::kDown, "layers.{L}.ffn.down", "model.layers.{L}.mlp.down_proj.weight", "blk.{L}.ffn_down.weight", {c.hidden, c.ffn}, Shard::kFfnColumns}},
      {{Role::kFinalNorm, "final_norm", "model.norm.weight", "output_norm.weight", {c.hidden}, Shard::kReplicated}}};
  if (!c.tied_embeddings) {
    rows.after.push_back({Role::kHead, "head", "lm_head.weight", "output.weight", {c.vocab, c.hidden}, Shard::kVocabRows});
  }
  // clang-format on
  return rows;
}

std::string Numbered(const char* pattern, int32_t layer) {
  std::string name = pattern;
  if (const size_t at = name.find("{L}"); at != std::string::npos) name.replace(at, 3, std::to_string(layer));
  return name;
}

TensorSpec Spec(const Row& row, int32_t layer) {
  return {row.role, layer, Numbered(row.name, layer), Numbered(row.hf_name, layer), Numbered(row.gguf_name, layer),
          row.shape, row.shard};
}

// Stored tensors that carry nothing of their own: rotary frequencies, which the config gives (a GGUF's rope_freqs is read
// with its metadata), and a second copy of a tied table.
bool MayBeIgnored(const ModelConfig& config, const std::string& name) {
  return name == "rope_freqs.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (config.tied_embeddings && name == "lm_head.weight");
}

bool IsNorm(const TensorSpec& spec) { return spec.shape.size() == 1; }

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace

std::vector<TensorSpec> TensorTable(const ModelConfig& config) {
  const Rows rows = RowsOf(config);
  std::vector<TensorSpec> table;
  for (const Row& row : rows.before) table.push_back(Spec(row, -1));
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (const Row& row : rows.layer) table.push_back(Spec(row, layer));
  }
  for (const Row& row : rows.after) table.push_back(Spec(row, -1));
  return table;
}

const TensorEntry* FindStored(const Checkpoint& checkpoint, const TensorSpec& spec) {
  const TensorEntry* entry = checkpoint.Find(spec.hf_name);
  return entry != nullptr ? entry : checkpoint.Find(spec.gguf_name);
}

absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<std::string> problems;
  absl::flat_hash_set<const TensorEntry*> used;
  for (const TensorSpec& spec : TensorTable(config)) {
    const TensorEntry* entry = FindStored(checkpoint, spec);
    if (entry == nullptr) {
      problems.push_back(absl::StrCat(spec.hf_name, " (", spec.gguf_name, ") is missing"));
      continue;
    }
    used.insert(entry);
    if (entry->shape != spec.shape) {
      problems.push_back(
          absl::StrCat(entry->name, " has shape ", ShapeText(entry->shape), ", the config needs ", ShapeText(spec.shape)));
    }
    if (IsNorm(spec) && IsQuantised(entry->dtype)) {
      const std::string_view type = Info(entry->dtype).name;
      problems.push_back(absl::StrCat(entry->name, " is of type ", std::string(type), "; a norm is f32, f16 or bf16"));
    }
  }
  for (const TensorEntry& entry : checkpoint.tensors()) {
    if (!used.contains(&entry) && !MayBeIgnored(config, entry.name)) {
      problems.push_back(absl::StrCat(entry.name, " is not known for this architecture"));
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(problems.size(), " problems with the tensors of this model:\n  ", absl::StrJoin(problems, "\n  ")));
}

}  // namespace shoal::model
