#include "common/model/quantization.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "common/model/json_util.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

using Problems = std::vector<std::string>;

// Refuses what a key says, unless it is absent or one of `known`.
void Expect(const json::object& object, const char* key, const std::vector<json::value>& known, Problems* problems) {
  const json::value* value = FindValue(object, key);
  if (value == nullptr) return;
  for (const json::value& k : known) {
    if (*value == k) return;
  }
  problems->push_back(absl::StrCat("\"", key, "\": ", json::serialize(*value).substr(0, 60)));
}

std::optional<DType> Fp8(const json::object& config, Problems* problems) {
  Expect(config, "fmt", {"e4m3", "float8_e4m3fn"}, problems);
  if (const json::value* block = FindValue(config, "weight_block_size"); block != nullptr) {
    problems->push_back(absl::StrCat("\"weight_block_size\": ", json::serialize(*block).substr(0, 60),
                                     " (weight_scale_inv: scales of blocks; one for each row or matrix is supported)"));
  }
  return DType::kF8E4M3;
}

std::optional<DType> CompressedTensors(const json::object& config, Problems* problems) {
  Expect(config, "format", {"float-quantized", "int-quantized", "naive-quantized"}, problems);
  Expect(config, "kv_cache_scheme", {}, problems);
  if (const json::value* sparse = FindValue(config, "sparsity_config"); sparse != nullptr && sparse->is_object()) {
    Expect(sparse->get_object(), "format", {"dense"}, problems);
  }
  const json::value* groups = FindValue(config, "config_groups");
  if (groups == nullptr || !groups->is_object() || groups->get_object().empty()) {
    problems->push_back("no \"config_groups\"");
    return std::nullopt;
  }
  std::optional<DType> type;
  for (const auto& group : groups->get_object()) {
    const json::value* weights = group.value().is_object() ? FindValue(group.value().get_object(), "weights") : nullptr;
    if (weights == nullptr || !weights->is_object()) {
      problems->push_back("a group without \"weights\"");
      continue;
    }
    const json::object& w = weights->get_object();
    Expect(w, "num_bits", {8}, problems);
    Expect(w, "type", {"float", "int"}, problems);
    Expect(w, "strategy", {"channel", "tensor"}, problems);
    Expect(w, "symmetric", {true}, problems);
    const json::value* kind = FindValue(w, "type");
    const DType found = kind != nullptr && *kind == "float" ? DType::kF8E4M3 : DType::kI8;  // "int" where unsaid
    if (type.value_or(found) != found) problems->push_back("groups of different types");
    type = found;
  }
  return type;
}

}  // namespace

absl::StatusOr<std::optional<DType>> MatrixType(const json::object& config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const json::value* value = FindValue(config, key);
    if (value == nullptr) continue;
    const json::object quantised = value->is_object() ? value->get_object() : json::object();
    Problems problems;
    std::optional<DType> type;
    const std::string method = JsonString(quantised, "quant_method").value_or("");
    if (method == "fp8") {
      type = Fp8(quantised, &problems);
    } else if (method == "compressed-tensors") {
      type = CompressedTensors(quantised, &problems);
    } else {
      problems.push_back(json::serialize(*value).substr(0, 60));
    }
    if (problems.empty()) return type;
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" is not supported: ", absl::StrJoin(problems, ", ")));
  }
  return std::optional<DType>();
}

}  // namespace shoal::model
