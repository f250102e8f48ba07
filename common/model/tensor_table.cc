#include "common/model/tensor_table.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::model {
namespace {

// Names without what all of them share: "layers.7.", "model.layers.7." or "blk.7." before those of a layer, ".weight"
// behind the stored ones.
struct Row {
  Role role;
  const char* name;
  const char* hf_name;
  const char* gguf_name;
  std::vector<int64_t> shape;
  Shard shard;
};

std::vector<Row> LayerRows(const ModelConfig& c) {
  const int64_t q = static_cast<int64_t>(c.heads) * c.head_dim, kv = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  const int64_t hidden = c.hidden, ffn = c.ffn;
  // clang-format off
  return {{Role::kAttnNorm, "attn.norm", "input_layernorm", "attn_norm", {hidden}, Shard::kReplicated},
          {Role::kQ, "attn.q", "self_attn.q_proj", "attn_q", {q, hidden}, Shard::kHeadRows},
          {Role::kK, "attn.k", "self_attn.k_proj", "attn_k", {kv, hidden}, Shard::kKvHeadRows},
          {Role::kV, "attn.v", "self_attn.v_proj", "attn_v", {kv, hidden}, Shard::kKvHeadRows},
          {Role::kO, "attn.o", "self_attn.o_proj", "attn_output", {hidden, q}, Shard::kHeadColumns},
          {Role::kFfnNorm, "ffn.norm", "post_attention_layernorm", "ffn_norm", {hidden}, Shard::kReplicated},
          {Role::kGate, "ffn.gate", "mlp.gate_proj", "ffn_gate", {ffn, hidden}, Shard::kFfnRows},
          {Role::kUp, "ffn.up", "mlp.up_proj", "ffn_up", {ffn, hidden}, Shard::kFfnRows},
          {Role::kDown, "ffn.down", "mlp.down_proj", "ffn_down", {hidden, ffn}, Shard::kFfnColumns}};
  // clang-format on
}

// `layer` -1: outside the layers.
TensorSpec Spec(const Row& row, int32_t layer) {
  const auto prefixed = [&](const char* prefix, const char* name) {
    return layer < 0 ? std::string(name) : absl::StrCat(prefix, layer, ".", name);
  };
  return {row.role,
          layer,
          prefixed("layers.", row.name),
          prefixed("model.layers.", row.hf_name) + ".weight",
          prefixed("blk.", row.gguf_name) + ".weight",
          row.shape,
          row.shard};
}

// Stored tensors that carry nothing of their own: rotary frequencies, which the config gives (a GGUF's rope_freqs is
// read with its metadata), and a second copy of a tied table.
bool MayBeIgnored(const ModelConfig& config, const std::string& name) {
  return name == "rope_freqs.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (config.tied_embeddings && name == "lm_head.weight");
}

bool IsNorm(const TensorSpec& spec) { return spec.shape.size() == 1; }

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace

std::vector<TensorSpec> TensorTable(const ModelConfig& c) {
  const std::vector<int64_t> vocabulary = {c.vocab, c.hidden};
  std::vector<TensorSpec> table;
  table.push_back(
      Spec({Role::kEmbedding, "embedding", "model.embed_tokens", "token_embd", vocabulary, Shard::kVocabRows}, -1));
  const std::vector<Row> rows = LayerRows(c);
  for (int32_t layer = 0; layer < c.layers; ++layer) {
    for (const Row& row : rows) table.push_back(Spec(row, layer));
  }
  table.push_back(
      Spec({Role::kFinalNorm, "final_norm", "model.norm", "output_norm", {c.hidden}, Shard::kReplicated}, -1));
  if (!c.tied_embeddings) {
    table.push_back(Spec({Role::kHead, "head", "lm_head", "output", vocabulary, Shard::kVocabRows}, -1));
  }
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
      problems.push_back(absl::StrCat(entry->name, " has shape ", ShapeText(entry->shape), ", the config needs ",
                                      ShapeText(spec.shape)));
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
