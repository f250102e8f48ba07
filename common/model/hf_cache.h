// The Hugging Face cache on disk, as huggingface_hub lays it out:
// <hub>/models--<org>--<name>/{refs/<revision> (holds a commit), snapshots/<commit>/...}.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal::model {

// HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub.
std::string HubCacheDirectory();

// Whether `spec` reads like org/name[@revision].
bool IsRepositoryName(std::string_view spec);

// The snapshot directory. NotFound says where it looked and how to download the model. `repository`: org/name.
absl::StatusOr<std::string> FindInHubCache(std::string_view spec, std::string* repository);

}  // namespace shoal::model
