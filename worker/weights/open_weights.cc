// Tested by: tests/agent/join_test.cc, tests/agent/agent_test.cc
#include "worker/weights/open_weights.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/quantise.h"
#include "common/model/tensor_table.h"

namespace shoal::weights {

absl::StatusOr<OpenedWeights> OpenWeights(const std::string& model, const std::string& revision,
                                          const plan::EngineOptions& engine) {
  const bool dummy = engine.load_format == "dummy";
  const auto source = dummy ? model::WeightSource::kDummy : model::WeightSource::kFiles;
  OpenedWeights opened;
  SHOAL_ASSIGN_OR_RETURN(opened.files, model::OpenModel(model, source));
  if (opened.files.revision != revision) {
    return absl::FailedPreconditionError(absl::StrCat(model, " here is revision ", opened.files.revision,
                                                      ", the coordinator read revision ", revision,
                                                      ": give both the same files"));
  }
  SHOAL_ASSIGN_OR_RETURN(opened.checkpoint,
                         model::QuantiseAs(engine.quantization, opened.files.checkpoint, opened.files.config));
  if (dummy) {
    opened.checkpoint = model::MakeDummyCheckpoint(opened.checkpoint, engine.dummy_seed);
  } else if (engine.load_format != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("load format ", engine.load_format, ": there are auto and dummy"));
  }
  SHOAL_RETURN_IF_ERROR(model::CheckTensors(opened.files.config, *opened.checkpoint));
  return opened;
}

}  // namespace shoal::weights
