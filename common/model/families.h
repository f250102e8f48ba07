// Families as data: the one place that knows their names. Maps config.json or GGUF metadata to ModelConfig, and says
// what the files of a family call their tensors. families.cc is the table; family_json.cc and family_gguf.cc read by
// it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/arrange.h"
#include "common/model/gguf.h"
#include "common/model/model_config.h"

namespace shoal::model {

// From the bytes of config.json (and generation_config.json, may be empty: it can name more eos tokens).
// InvalidArgument: malformed, unknown architecture (the known ones are listed), values that contradict each other or
// that would change the result in a way that is not supported.
absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view config_json, std::string_view generation_config_json);
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

// Of ModelConfig::architecture, which also says which format it is. No names for an architecture that is not known.
StoredNames NamesOf(std::string_view architecture);

std::vector<std::string> KnownArchitectures();

}  // namespace shoal::model
