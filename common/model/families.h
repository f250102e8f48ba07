// Families as data: the one place that knows their names. Maps config.json or GGUF metadata to ModelConfig.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/gguf.h"
#include "common/model/model_config.h"

namespace shoal::model {

// From the bytes of config.json (and generation_config.json, may be empty: it can name more eos tokens).
// InvalidArgument: malformed, unknown architecture (the known ones are listed), or values that contradict each other.
absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view config_json, std::string_view generation_config_json);
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

std::vector<std::string> KnownArchitectures();

}  // namespace shoal::model
