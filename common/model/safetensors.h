// Safetensors: one file, or several with model.safetensors.index.json. Header limits: 16 MiB, no gaps, no overlap,
// dtype x shape == range, no duplicate names.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"

namespace shoal::model {

// `directory` holds model.safetensors, or the index and the files it names. Tensors that `is_unused` holds for are not
// listed, whatever their type is (masks of booleans, positions of int64).
absl::StatusOr<std::shared_ptr<const Checkpoint>> OpenSafetensors(
    const std::string& directory, const std::function<bool(std::string_view)>& is_unused = nullptr);

}  // namespace shoal::model
