// What config.json says of quantised weights: "quantization_config", or "compression_config", its older name. Which
// tensors have which type, the files say; here it is only whether it is a scheme that the loader can follow.
//   {"quant_method": "fp8"}                  matrices of e4m3; no "weight_block_size"
//   {"quant_method": "compressed-tensors"}   groups of "num_bits" 8 and "type" "float" (e4m3) or "int", symmetric, with
//                                            "strategy" "channel" or "tensor", in a format that stores a byte each
// How activations would be quantised is passed over: they stay as they are, which is more exact.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "boost/json/fwd.hpp"
#include "common/base/dtype.h"

namespace shoal::model {

// The type of the matrices inside the layers; nullopt when `config` (all of config.json) speaks of none.
// InvalidArgument names the key, and everything in it that is not supported.
absl::StatusOr<std::optional<DType>> MatrixType(const boost::json::object& config);

}  // namespace shoal::model
