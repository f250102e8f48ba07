// The checkpoint behind a group, as agents and those who load for them open it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"
#include "common/plan/control.h"

namespace shoal::weights {

struct OpenedWeights {
  model::ModelFiles files;
  std::shared_ptr<const model::Checkpoint> checkpoint;  // of the files, quantised as asked for, or dummies like them
};

// Reads headers only, and checks the tensors. FailedPrecondition: the files here are of another revision. All errors
// are worded for the operator.
absl::StatusOr<OpenedWeights> OpenWeights(const std::string& model, const std::string& revision,
                                          const plan::EngineOptions& engine);

}  // namespace shoal::weights
