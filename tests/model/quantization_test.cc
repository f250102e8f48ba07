#include "common/model/quantization.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "boost/json.hpp"

namespace shoal::model {
namespace {

namespace json = boost::json;

json::value Groups(const json::object& weights) {
  return {{"quant_method", "compressed-tensors"},
          {"format", "float-quantized"},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}

TEST(Quantization, WhatTheLoaderCanFollow) {
  const json::object fp8 = {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}, {"symmetric", true}};
  const json::object int8 = {{"num_bits", 8}, {"type", "int"}, {"strategy", "tensor"}, {"dynamic", false}};
  const json::object static_fp8 = {{"quant_method", "fp8"}, {"activation_scheme", "static"}, {"ignored_layers", {"a"}}};
  for (const auto& [value, type] : {std::pair<json::value, DType>{static_fp8, DType::kF8E4M3},
                                    {Groups(fp8), DType::kF8E4M3},
                                    {Groups(int8), DType::kI8}}) {
    for (const char* key : {"quantization_config", "compression_config"}) {
      EXPECT_EQ(MatrixType({{key, value}}).value(), type);
    }
  }
  EXPECT_EQ(MatrixType({{"quantization_config", nullptr}}).value(), std::nullopt);
}

TEST(Quantization, OtherSchemesAreRefusedByName) {
  json::object four_bits = {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"symmetric", false}};
  json::value packed = Groups({{"num_bits", 8}});
  packed.get_object()["format"] = "pack-quantized";
  packed.get_object()["kv_cache_scheme"] = {{"num_bits", 8}};
  const std::pair<json::value, std::vector<std::string>> refused[] = {
      {5, {"quantization_config"}},
      {{{"quant_method", "gptq"}, {"bits", 4}}, {"gptq"}},
      {{{"quant_method", "fp8"}, {"fmt", "e5m2"}, {"weight_block_size", {128, 128}}},
       {"e5m2", "weight_block_size", "weight_scale_inv"}},
      {Groups(four_bits), {"\"num_bits\": 4", "\"strategy\": \"group\"", "\"symmetric\": false"}},
      {packed, {"pack-quantized", "kv_cache_scheme"}},
      {{{"quant_method", "compressed-tensors"}}, {"config_groups"}}};
  for (const auto& [value, parts] : refused) {
    const absl::StatusOr<std::optional<DType>> type = MatrixType({{"quantization_config", value}});
    ASSERT_EQ(type.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string said(type.status().message());
    for (const std::string& part : parts) EXPECT_NE(said.find(part), std::string::npos) << part << " in " << said;
  }
}

}  // namespace
}  // namespace shoal::model
