#include "tools/cli/inspect.h"

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/backends.h"
#include "tools/cli/terminal.h"
#include "worker/weights/weights.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;
using model::ModelConfig;

struct TypeCount {
  int64_t tensors = 0, bytes = 0;
};

struct RankPart {
  const plan::RankShard* shard;
  int64_t read_bytes = 0, resident_bytes = 0;
};

// Bytes of one kind of tensor (all layers together) that more than one rank reads. extra = bytes read over all ranks
// minus bytes stored.
struct Shared {
  int64_t tensors = 0, stored_bytes = 0, extra_bytes = 0;
  int most_ranks = 0;  // that hold one piece
};

struct Report {
  const model::ModelFiles* files;
  std::map<std::string, TypeCount> types;
  plan::ShardPlan plan;
  std::vector<RankPart> ranks;
  std::map<std::string, Shared> shared;
  int64_t read_bytes = 0;
  double bound = 1;
};

// "layers.*.attn.k" for every layer's k, "layers.*.experts.*.up" for that of every expert.
std::string KindOf(const model::TensorSpec& spec) {
  return absl::StrCat(spec.layer < 0 ? "" : "layers.*.", spec.expert < 0 ? "" : "experts.*.", RoleName(spec.role));
}

// Stored bytes of the rows and columns of a slice.
int64_t SliceBytes(const model::TensorEntry& stored, const plan::TensorSlice& slice) {
  return slice.rows.size() * static_cast<int64_t>(RowBytes(stored.dtype, slice.columns.size()));
}

// Whether two ranks hold a common part.
bool Overlap(const plan::Range& a, const plan::Range& b) { return std::max(a.begin, b.begin) < std::min(a.end, b.end); }

void CountShared(const ModelConfig& config, const model::Checkpoint& checkpoint, Report* report) {
  const model::TensorIndex index(checkpoint);
  for (const model::TensorSpec& spec : model::TensorTable(config)) {
    const model::TensorEntry& stored = *index.Find(spec.name);
    std::vector<plan::TensorSlice> slices;
    int64_t sum = 0;
    for (const plan::RankShard& shard : report->plan.ranks) {
      const plan::TensorSlice slice = plan::SliceOf(config, shard, spec);
      if (slice.empty()) continue;
      slices.push_back(slice);
      sum += SliceBytes(stored, slice);
    }
    if (sum <= stored.bytes) continue;
    Shared& s = report->shared[KindOf(spec)];
    ++s.tensors;
    s.stored_bytes += stored.bytes;
    s.extra_bytes += sum - stored.bytes;
    for (const plan::TensorSlice& a : slices) {
      const auto ranks = std::count_if(slices.begin(), slices.end(), [&](const plan::TensorSlice& b) {
        return Overlap(a.rows, b.rows) && Overlap(a.columns, b.columns);
      });
      s.most_ranks = std::max(s.most_ranks, static_cast<int>(ranks));
    }
  }
}

absl::StatusOr<Report> MakeReport(const model::ModelFiles& files, int tp, int pp) {
  Report report = {.files = &files, .types = {}, .plan = {}, .ranks = {}, .shared = {}};
  SHOAL_ASSIGN_OR_RETURN(report.plan, plan::MakeShardPlan(files.config, tp, pp));
  SHOAL_ASSIGN_OR_RETURN(const ops::OpTable* table, ops::FindOpTable("cpu"));
  for (const model::TensorEntry& t : files.checkpoint->tensors()) {
    TypeCount& count = report.types[std::string(Info(t.dtype).name)];
    ++count.tensors;
    count.bytes += t.bytes;
  }
  for (const plan::RankShard& shard : report.plan.ranks) {
    SHOAL_ASSIGN_OR_RETURN(const weights::WeightLayout layout,
                           weights::MakeLayout(files.config, *files.checkpoint, shard, *table, false));
    report.ranks.push_back({&shard, layout.read_bytes, layout.region_bytes});
    report.read_bytes += layout.read_bytes;
  }
  CountShared(files.config, *files.checkpoint, &report);
  report.bound = plan::BalanceBound(files.config, report.plan);
  return report;
}

// ---- text ----

// Names and values, both to the left.
std::string List(const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& [name, value] : rows) width = std::max(width, name.size());
  std::string out;
  for (const auto& [name, value] : rows) {
    absl::StrAppend(&out, "  ", name, std::string(width + 2 - name.size(), ' '), value, "\n");
  }
  return out;
}

std::string RopeText(const model::Rope& rope) {
  if (rope.dim == 0) return "none";
  std::string text = absl::StrFormat("theta %.0f", rope.theta);
  if (rope.scaling == model::RopeScaling::kLinear) absl::StrAppend(&text, ", linear scaling x ", rope.factor);
  if (rope.scaling == model::RopeScaling::kLlama3) absl::StrAppend(&text, ", llama3 scaling x ", rope.factor);
  if (rope.scaling == model::RopeScaling::kLongRope) {
    absl::StrAppend(&text, ", factors for more than ", rope.original_max_position, " tokens");
  }
  return text;
}

// Layers with windows: "512 in 25 layers of 30"; windows of one model do not differ.
std::string WindowText(const ModelConfig& c) {
  int32_t window = 0, layers = 0;
  for (const model::LayerKind& kind : c.kinds) {
    if (kind.window == 0) continue;
    window = kind.window;
    ++layers;
  }
  return layers == 0 ? "none" : absl::StrCat(window, " in ", layers, " layers of ", c.layers);
}

std::string FeedForwardText(const ModelConfig& c) {
  const model::Experts& e = c.experts;
  const std::string experts =
      e.count == 0 ? std::string() : absl::StrCat(e.count, " experts of ", e.ffn, ", ", e.used, " for each token");
  return absl::StrCat(c.ffn == 0 ? std::string() : absl::StrCat(c.ffn), c.ffn > 0 && e.count > 0 ? ", or " : "",
                      experts);
}

std::string TextReport(const Report& r) {
  const ModelConfig& c = r.files->config;
  std::string out = absl::StrCat(r.files->name, "\n");
  out += List({{"path", r.files->path},
               {"architecture", c.architecture},
               {"layers", absl::StrCat(c.layers)},
               {"hidden", absl::StrCat(c.hidden)},
               {"heads", absl::StrCat(c.heads, " of ", c.head_dim, ", ", c.kv_heads, " kv")},
               {"window", WindowText(c)},
               {"feed-forward", FeedForwardText(c)},
               {"vocabulary", absl::StrCat(c.vocab, c.tied_embeddings ? ", head tied to the embedding"
                                                    : c.has_head()    ? ""
                                                                      : ", no head: gives vectors")},
               {"context", absl::StrCat(c.max_position)},
               {"rotary", RopeText(c.rope)},
               {"end tokens", absl::StrJoin(c.eos_tokens, ", ")},
               {"revision", r.files->revision}});
  out += "\ntensors\n";
  std::vector<std::vector<std::string>> types = {{"type", "tensors", "bytes"}};
  for (const auto& [name, count] : r.types)
    types.push_back({name, absl::StrCat(count.tensors), HumanBytes(count.bytes)});
  types.push_back(
      {"file", absl::StrCat(r.files->checkpoint->tensors().size()), HumanBytes(r.files->checkpoint->file_bytes())});
  out += FormatTable(types, 2);
  absl::StrAppend(&out, "\nranks of tp ", r.plan.tp, " x pp ", r.plan.pp, "\n");
  std::vector<std::vector<std::string>> ranks = {
      {"rank", "stage", "layers", "heads", "kv heads", "ffn", "expert ffn", "vocabulary", "reads", "resident"}};
  for (const RankPart& p : r.ranks) {
    const plan::RankShard& s = *p.shard;
    const bool table = s.has_embedding || s.has_head;
    ranks.push_back({absl::StrCat(s.rank), absl::StrCat(s.stage), Span(s.layers), Span(s.heads), Span(s.kv_heads),
                     s.ffn.size() > 0 ? Span(s.ffn) : "-", s.expert_ffn.size() > 0 ? Span(s.expert_ffn) : "-",
                     table ? Span(s.vocab) : "-", HumanBytes(p.read_bytes), HumanBytes(p.resident_bytes)});
  }
  out += FormatTable(ranks, 2);
  if (!r.shared.empty()) {
    out += "\nheld by several ranks\n";
    std::vector<std::vector<std::string>> rows = {{"tensor", "count", "ranks", "stored", "read again"}};
    for (const auto& [name, s] : r.shared) {
      rows.push_back({name, absl::StrCat(s.tensors), absl::StrCat(s.most_ranks), HumanBytes(s.stored_bytes),
                      HumanBytes(s.extra_bytes)});
    }
    out += FormatTable(rows, 2);
  }
  absl::StrAppendFormat(&out, "\nread over all ranks: %s\nbound of uneven work: %.4f (%.2f ranks of %d)\n",
                        HumanBytes(r.read_bytes), r.bound, r.bound * r.plan.tp * r.plan.pp, r.plan.tp * r.plan.pp);
  return out;
}

// ---- JSON ----

json::array Pair(const plan::Range& r) { return {r.begin, r.end}; }

std::string JsonReport(const Report& r) {
  const ModelConfig& c = r.files->config;
  json::object types, shared;
  for (const auto& [name, count] : r.types) types[name] = {{"tensors", count.tensors}, {"bytes", count.bytes}};
  for (const auto& [name, s] : r.shared) {
    shared[name] = {{"tensors", s.tensors},
                    {"ranks", s.most_ranks},
                    {"stored_bytes", s.stored_bytes},
                    {"extra_bytes", s.extra_bytes}};
  }
  json::array ranks;
  for (const RankPart& p : r.ranks) {
    const plan::RankShard& s = *p.shard;
    ranks.push_back({{"rank", s.rank},
                     {"tp_index", s.tp_index},
                     {"stage", s.stage},
                     {"layers", Pair(s.layers)},
                     {"heads", Pair(s.heads)},
                     {"kv_heads", Pair(s.kv_heads)},
                     {"ffn", Pair(s.ffn)},
                     {"expert_ffn", Pair(s.expert_ffn)},
                     {"vocab", Pair(s.vocab)},
                     {"has_embedding", s.has_embedding},
                     {"has_head", s.has_head},
                     {"read_bytes", p.read_bytes},
                     {"resident_bytes", p.resident_bytes}});
  }
  const json::object config = {{"architecture", c.architecture},
                               {"layers", c.layers},
                               {"hidden", c.hidden},
                               {"heads", c.heads},
                               {"kv_heads", c.kv_heads},
                               {"head_dim", c.head_dim},
                               {"ffn", c.ffn},
                               {"experts", c.experts.count},
                               {"experts_used", c.experts.used},
                               {"expert_ffn", c.experts.ffn},
                               {"vocab", c.vocab},
                               {"max_position", c.max_position},
                               {"tied_embeddings", c.tied_embeddings},
                               {"rope_theta", c.rope.theta},
                               {"eos_tokens", json::array(c.eos_tokens.begin(), c.eos_tokens.end())}};
  return json::serialize(json::object{{"name", r.files->name},
                                      {"path", r.files->path},
                                      {"revision", r.files->revision},
                                      {"file_bytes", r.files->checkpoint->file_bytes()},
                                      {"config", config},
                                      {"tensor_types", types},
                                      {"tp", r.plan.tp},
                                      {"pp", r.plan.pp},
                                      {"ranks", ranks},
                                      {"shared", shared},
                                      {"read_bytes", r.read_bytes},
                                      {"balance_bound", r.bound}}) +
         "\n";
}

}  // namespace

absl::Status RunInspect(const std::string& model, int tp, int pp, bool json, std::FILE* out) {
  SHOAL_ASSIGN_OR_RETURN(const model::ModelFiles files, model::OpenModel(model));
  SHOAL_ASSIGN_OR_RETURN(const Report report, MakeReport(files, tp, pp));
  const std::string text = json ? JsonReport(report) : TextReport(report);
  if (std::fwrite(text.data(), 1, text.size(), out) != text.size())
    return absl::DataLossError("the output cannot be written");
  return absl::OkStatus();
}

}  // namespace shoal::cli
