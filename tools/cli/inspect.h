// `shoal inspect MODEL`: what a model is and who would hold which part of it. Reads headers only.
#pragma once

#include <cstdio>
#include <string>

#include "absl/status/status.h"

namespace shoal::cli {

// Prints configuration, tensors by type, the part of each rank of a tp x pp group (bytes read from the file and bytes
// resident, as the CPU backend of this machine packs them), the tensors that several ranks hold, and the bound that
// uneven work sets. As aligned text, or as one JSON object. Errors: OpenModel's and MakeShardPlan's; nothing is printed
// then.
absl::Status RunInspect(const std::string& model, int tp, int pp, bool json, std::FILE* out);

}  // namespace shoal::cli
