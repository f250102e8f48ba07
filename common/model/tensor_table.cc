#include "common/model/tensor_table.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::model {
namespace {

// By role: names without what all of them share, "layers.7." or "layers.7.experts.3." before those of a layer.
constexpr const char* kNames[] = {"embedding",
                                  "positions",
                                  "token_type",
                                  "embedding_norm",
                                  "embedding_norm.bias",
                                  "attn.norm",
                                  "attn.norm.bias",  //
                                  "attn.q",
                                  "attn.q.bias",
                                  "attn.k",
                                  "attn.k.bias",
                                  "attn.v",
                                  "attn.v.bias",  //
                                  "attn.q_norm",
                                  "attn.k_norm",
                                  "attn.o",
                                  "attn.o.bias",  //
                                  "attn.post_norm",
                                  "attn.post_norm.bias",  //
                                  "ffn.norm",
                                  "ffn.norm.bias",  //
                                  "ffn.gate",
                                  "ffn.gate.bias",
                                  "ffn.up",
                                  "ffn.up.bias",
                                  "ffn.down",
                                  "ffn.down.bias",  //
                                  "router",
                                  "gate",
                                  "up",
                                  "down",  //
                                  "ffn.post_norm",
                                  "ffn.post_norm.bias",  //
                                  "final_norm",
                                  "final_norm.bias",
                                  "head"};
static_assert(std::size(kNames) == kRoles);

class Table {
 public:
  explicit Table(const ModelConfig& c)
      : c_(c),
        q_(int64_t{c.heads} * c.head_dim),
        kv_(int64_t{c.kv_heads} * c.head_dim),
        hidden_(c.hidden),
        ffn_(c.ffn),
        expert_ffn_(c.experts.ffn) {}

  std::vector<TensorSpec> Make() {
    Matrix(Role::kEmbedding, {c_.vocab, hidden_}, Shard::kVocabRows);
    if (c_.learned_positions) Matrix(Role::kPositions, {c_.max_position, hidden_}, Shard::kReplicated);
    if (c_.token_types) Vector(Role::kTokenType, hidden_, Shard::kReplicated);
    if (c_.embedding_norm) Norm(Role::kEmbeddingNorm, Role::kEmbeddingNormBias);
    for (layer_ = 0; layer_ < c_.layers; ++layer_) {
      Attention();
      if (c_.kind(layer_).has_experts) {
        BeforeAndAfterFfn([&] { Experts(); });
      } else {
        BeforeAndAfterFfn([&] { FeedForward(); });
      }
    }
    layer_ = -1;
    if (c_.final_norm) Norm(Role::kFinalNorm, Role::kFinalNormBias);
    if (c_.has_head() && !c_.tied_embeddings) Matrix(Role::kHead, {c_.vocab, hidden_}, Shard::kVocabRows);
    return std::move(table_);
  }

 private:
  bool before() const { return c_.norm_place != NormPlace::kAfter; }
  bool after() const { return c_.norm_place != NormPlace::kBefore; }

  void Attention() {
    if (before()) Norm(Role::kAttnNorm, Role::kAttnNormBias);
    Linear(Role::kQ, {q_, hidden_}, Shard::kHeadRows, Role::kQBias, c_.qkv_bias, Shard::kHeadRows);
    Linear(Role::kK, {kv_, hidden_}, Shard::kKvHeadRows, Role::kKBias, c_.qkv_bias, Shard::kKvHeadRows);
    Linear(Role::kV, {kv_, hidden_}, Shard::kKvHeadRows, Role::kVBias, c_.qkv_bias, Shard::kKvHeadRows);
    if (c_.qk_norm) Vector(Role::kQNorm, c_.head_dim, Shard::kReplicated);
    if (c_.qk_norm) Vector(Role::kKNorm, c_.head_dim, Shard::kReplicated);
    Linear(Role::kO, {hidden_, q_}, Shard::kHeadColumns, Role::kOBias, c_.output_bias, Shard::kFirstRank);
    if (after()) Norm(Role::kAttnPostNorm, Role::kAttnPostNormBias);
  }
  template <typename F>
  void BeforeAndAfterFfn(F block) {
    if (before()) Norm(Role::kFfnNorm, Role::kFfnNormBias);
    block();
    if (after()) Norm(Role::kFfnPostNorm, Role::kFfnPostNormBias);
  }
  void FeedForward() {
    if (c_.gated) Linear(Role::kGate, {ffn_, hidden_}, Shard::kFfnRows, Role::kGateBias, c_.ffn_bias, Shard::kFfnRows);
    Linear(Role::kUp, {ffn_, hidden_}, Shard::kFfnRows, Role::kUpBias, c_.ffn_bias, Shard::kFfnRows);
    Linear(Role::kDown, {hidden_, ffn_}, Shard::kFfnColumns, Role::kDownBias, c_.ffn_bias, Shard::kFirstRank);
  }
  void Experts() {
    Matrix(Role::kRouter, {c_.experts.count, hidden_}, Shard::kReplicated);
    OfAllExperts(Role::kExpertGate, {expert_ffn_, hidden_}, Shard::kExpertFfnRows);
    OfAllExperts(Role::kExpertUp, {expert_ffn_, hidden_}, Shard::kExpertFfnRows);
    OfAllExperts(Role::kExpertDown, {hidden_, expert_ffn_}, Shard::kExpertFfnColumns);
  }
  void OfAllExperts(Role role, const std::vector<int64_t>& shape, Shard shard) {
    for (expert_ = 0; expert_ < c_.experts.count; ++expert_) Matrix(role, shape, shard);
    expert_ = -1;
  }

  void Norm(Role role, Role bias) {
    Vector(role, hidden_, Shard::kReplicated);
    if (c_.norm_bias) Vector(bias, hidden_, Shard::kReplicated);
  }
  void Linear(Role role, const std::vector<int64_t>& shape, Shard shard, Role bias, bool has_bias, Shard bias_shard) {
    Matrix(role, shape, shard);
    if (has_bias) Vector(bias, shape[0], bias_shard);
  }
  void Vector(Role role, int64_t size, Shard shard) { Matrix(role, {size}, shard); }
  void Matrix(Role role, std::vector<int64_t> shape, Shard shard) {
    const std::string place = layer_ < 0    ? std::string()
                              : expert_ < 0 ? absl::StrCat("layers.", layer_, ".")
                                            : absl::StrCat("layers.", layer_, ".experts.", expert_, ".");
    table_.push_back({role, layer_, expert_, place + RoleName(role), std::move(shape), shard});
  }

  const ModelConfig& c_;
  const int64_t q_, kv_, hidden_, ffn_, expert_ffn_;
  int32_t layer_ = -1, expert_ = -1;
  std::vector<TensorSpec> table_;
};

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace

const char* RoleName(Role role) { return kNames[static_cast<size_t>(role)]; }

std::vector<TensorSpec> TensorTable(const ModelConfig& c) { return Table(c).Make(); }

const TensorEntry* FindRowScale(const TensorIndex& index, const TensorEntry& matrix) {
  return IsByte(matrix.dtype) ? index.Find(matrix.name + "_scale") : nullptr;
}

std::vector<std::string> CheckType(const TensorSpec& spec, const TensorEntry& tensor, const TensorEntry* scale,
                                   std::string_view name, std::string_view scale_name) {
  std::vector<std::string> problems;
  const auto type = [](const TensorEntry& t) { return std::string(Info(t.dtype).name); };
  if (spec.is_vector() && (IsQuantised(tensor.dtype) || IsByte(tensor.dtype))) {
    problems.push_back(
        absl::StrCat(std::string(name), " is of type ", type(tensor), "; a norm or a bias is f32, f16 or bf16"));
  }
  if (scale == nullptr) return problems;
  int64_t elements = 1;
  for (const int64_t n : scale->shape) elements *= n;
  const bool of_rows = !scale->shape.empty() && scale->shape[0] == tensor.shape[0];
  if (elements != 1 && (!of_rows || elements != tensor.shape[0])) {
    problems.push_back(absl::StrCat(std::string(scale_name), " has shape ", ShapeText(scale->shape),
                                    ", a matrix of shape ", ShapeText(tensor.shape),
                                    " has one scale, or one for each row"));
  }
  if (IsQuantised(scale->dtype) || IsByte(scale->dtype)) {
    problems.push_back(
        absl::StrCat(std::string(scale_name), " is of type ", type(*scale), "; a scale is f32, f16 or bf16"));
  }
  return problems;
}

absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<std::string> problems = CheckConfig(config);
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
  const TensorIndex index(checkpoint);
  absl::flat_hash_set<const TensorEntry*> used;
  for (const TensorSpec& spec : TensorTable(config)) {
    const TensorEntry* entry = index.Find(spec.name);
    if (entry == nullptr) {
      problems.push_back(absl::StrCat(spec.name, " is missing"));
      continue;
    }
    used.insert(entry);
    if (entry->shape != spec.shape) {
      problems.push_back(absl::StrCat(spec.name, " has shape ", ShapeText(entry->shape), ", the config needs ",
                                      ShapeText(spec.shape)));
      continue;
    }
    const TensorEntry* scale = spec.is_vector() ? nullptr : FindRowScale(index, *entry);
    if (scale != nullptr) used.insert(scale);
    const std::string scale_name = spec.name + "_scale";
    for (std::string& p : CheckType(spec, *entry, scale, spec.name, scale_name)) problems.push_back(std::move(p));
  }
  for (const TensorEntry& entry : checkpoint.tensors()) {
    if (!used.contains(&entry)) problems.push_back(absl::StrCat(entry.name, " is not used by this model"));
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(problems.size(), " problems with the tensors of this model:\n  ", absl::StrJoin(problems, "\n  ")));
}

}  // namespace shoal::model
