// How an encoder's hidden states become one vector, as sentence-transformers keeps it beside config.json: modules.json
// lists the steps, and the pooling step's folder (1_Pooling) has a config.json.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Sets pooling and normalise when `directory` has a modules.json; returns the texts that were read, empty when there
// are none. InvalidArgument: steps or ways of pooling that are not supported, by name; `config` is then as it was.
absl::StatusOr<std::string> ReadPooling(const std::string& directory, ModelConfig* config);

}  // namespace shoal::model
