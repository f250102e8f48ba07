// Safetensors: one file, or several with model.safetensors.index.json. Header limits: 16 MiB, no gaps, no overlap,
// dtype x shape == range, no duplicate names.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"

namespace shoal::model {

// `directory` holds model.safetensors, or the index and the files it names.
absl::StatusOr<std::shared_ptr<const Checkpoint>> OpenSafetensors(const std::string& directory);

}  // namespace shoal::model
