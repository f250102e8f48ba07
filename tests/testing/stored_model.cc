// Tested by: tests/model/arrange_test.cc
#include "tests/testing/stored_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/model/file.h"
#include "tests/testing/quantise.h"

namespace shoal::testing {
namespace {

using model::Piece;
using model::TensorSpec;

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  return n;
}

bool EndsWith(const std::string& s, const std::string& end) {
  return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

// The matrix or norm of a bias.
std::string Owner(const std::string& name) { return EndsWith(name, ".bias") ? name.substr(0, name.size() - 5) : name; }

// Rows before those of the tensor, and rows in all.
std::pair<int64_t, int64_t> RowsOf(const model::ModelConfig& c, const TensorSpec& spec, Piece piece) {
  const int64_t q = int64_t{c.heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim, own = spec.shape[0];
  if (piece == Piece::kQOfQkv) return {0, q + 2 * kv};
  if (piece == Piece::kKOfQkv) return {q, q + 2 * kv};
  if (piece == Piece::kVOfQkv) return {q + kv, q + 2 * kv};
  if (piece == Piece::kGateOfGateUp) return {0, 2 * own};
  if (piece == Piece::kUpOfGateUp) return {own, 2 * own};
  return {0, own};
}

}  // namespace

std::map<std::string, std::vector<float>> ExactValues(const model::ModelConfig& config) {
  std::map<std::string, std::vector<float>> out;
  for (const TensorSpec& spec : model::TensorTable(config)) {
    std::vector<float>& values = out[spec.name];
    values.resize(static_cast<size_t>(Elements(spec.shape)));
    const uint64_t stream = model::Fnv1a(spec.name);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(static_cast<int>(RandomBits(5, stream, i) & 255) - 128) / 64.0f;
    }
  }
  return out;
}

std::map<std::string, StoredTensor> StoredTensors(const model::ModelConfig& config, const model::StoredNames& names) {
  const auto values = ExactValues(config);
  std::map<std::string, model::Role> roles;
  const std::vector<TensorSpec> table = model::TensorTable(config);
  for (const TensorSpec& spec : table) roles[spec.name] = spec.role;
  std::map<std::string, StoredTensor> out;
  for (const TensorSpec& spec : table) {
    const bool bias = EndsWith(spec.name, ".bias");
    const model::Role role = roles.at(Owner(spec.name));
    const auto row = std::find_if(names.names.begin(), names.names.end(),
                                  [&](const model::StoredName& n) { return n.role == role; });
    SHOAL_CHECK(row != names.names.end());
    std::string name =
        absl::StrReplaceAll(row->name, {{"{L}", absl::StrCat(spec.layer)}, {"{E}", absl::StrCat(spec.expert)}});
    if (role != model::Role::kHead) name = names.prefixes[0] + name;
    if (bias) name = name.substr(0, name.rfind('.')) + ".bias";
    const auto [first, whole] = RowsOf(config, spec, row->piece);
    const bool stacked = spec.expert >= 0 && std::string(row->name).find("{E}") == std::string::npos;
    const bool transposed = row->transposed && !bias;
    const int64_t columns = spec.is_vector() ? 1 : spec.shape[1];
    StoredTensor& stored = out[name];
    if (stored.values.empty()) {
      stored.shape = spec.shape;
      stored.shape[0] = whole;
      if (transposed) std::swap(stored.shape[0], stored.shape[1]);
      if (stacked) stored.shape.insert(stored.shape.begin(), config.experts.count);
      if (row->piece == Piece::kFirstRow) stored.shape.insert(stored.shape.begin(), 2);
      stored.values.resize(static_cast<size_t>(Elements(stored.shape)), 77.0f);
    }
    const std::vector<float>& v = values.at(spec.name);
    for (int64_t r = 0; r < spec.shape[0]; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at =
            transposed ? c * whole + first + r : ((stacked ? spec.expert * whole : 0) + first + r) * columns + c;
        stored.values[static_cast<size_t>(at)] = v[static_cast<size_t>(r * columns + c)];
      }
    }
  }
  return out;
}

std::map<std::string, RawTensor> RawTensors(const std::map<std::string, StoredTensor>& tensors, DType type) {
  std::map<std::string, RawTensor> out;
  for (const auto& [name, t] : tensors) {
    out[name] = {type == DType::kBF16 ? "BF16" : "F32", t.shape, Stored(type, t.values)};
  }
  return out;
}

void AddTensors(const std::map<std::string, StoredTensor>& tensors, GgufWriter* writer) {
  for (const auto& [name, t] : tensors) writer->Tensor(name, t.shape, 0, Stored(DType::kF32, t.values));
}

}  // namespace shoal::testing
