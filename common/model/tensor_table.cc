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

// How a static scheme would quantise the input of a matrix. Activations are not quantised here, which is more exact.
bool IsInputScale(const Checkpoint& checkpoint, const std::string& name) {
  constexpr absl::string_view kEnd = ".input_scale";
  if (!absl::EndsWith(name, kEnd)) return false;
  const TensorEntry* matrix = checkpoint.Find(absl::StrCat(name.substr(0, name.size() - kEnd.size()), ".weight"));
  return matrix != nullptr && IsByte(matrix->dtype);
}

bool IsNorm(const TensorSpec& spec) { return spec.shape.size() == 1; }

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// What is wrong with the scales of a matrix. Those that were found, wrong or not, join `used`.
void CheckScales(const Checkpoint& checkpoint, const TensorEntry& matrix, absl::flat_hash_set<const TensorEntry*>* used,
                 std::vector<std::string>* problems) {
  if (const TensorEntry* blocks = checkpoint.Find(matrix.name + "_scale_inv"); blocks != nullptr) {
    used->insert(blocks);
    problems->push_back(absl::StrCat(blocks->name, " has scales of blocks ", ShapeText(blocks->shape),
                                     "; one scale for each row, or for all of a matrix, is supported"));
  }
  const TensorEntry* scale = FindRowScale(checkpoint, matrix);
  if (scale == nullptr) return;
  used->insert(scale);
  int64_t elements = 1;
  for (const int64_t n : scale->shape) elements *= n;
  const bool of_rows = !scale->shape.empty() && scale->shape[0] == matrix.shape[0];
  if (elements != 1 && (!of_rows || elements != matrix.shape[0])) {
    problems->push_back(absl::StrCat(scale->name, " has shape ", ShapeText(scale->shape), ", a matrix of shape ",
                                     ShapeText(matrix.shape), " has one scale, or one for each row"));
  }
  if (IsQuantised(scale->dtype) || IsByte(scale->dtype)) {
    problems->push_back(absl::StrCat(scale->name, " is of type ", std::string(Info(scale->dtype).name),
                                     "; a scale is f32, f16 or bf16"));
  }
}

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

const TensorEntry* FindRowScale(const Checkpoint& checkpoint, const TensorEntry& matrix) {
  return IsByte(matrix.dtype) ? checkpoint.Find(matrix.name + "_scale") : nullptr;
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
    if (IsByte(entry->dtype) && !IsNorm(spec)) CheckScales(checkpoint, *entry, &used, &problems);
    if (IsNorm(spec) && (IsQuantised(entry->dtype) || IsByte(entry->dtype))) {
      const std::string_view type = Info(entry->dtype).name;
      problems.push_back(absl::StrCat(entry->name, " is of type ", std::string(type), "; a norm is f32, f16 or bf16"));
    }
  }
  for (const TensorEntry& entry : checkpoint.tensors()) {
    if (!used.contains(&entry) && !MayBeIgnored(config, entry.name) && !IsInputScale(checkpoint, entry.name)) {
      problems.push_back(absl::StrCat(entry.name, " is not known for this architecture"));
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(problems.size(), " problems with the tensors of this model:\n  ", absl::StrJoin(problems, "\n  ")));
}

}  // namespace shoal::model
