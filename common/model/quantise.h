// Quantising at load: a checkpoint of plain types read as if its matrices were stored in a type of one byte, or in
// int4.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Like `like`, but that the matrices inside the layers (experts too, routers not) that are f32, f16 or bf16 are of
// `type`. Of one byte, each is followed by the scales of its rows, "<name>_scale" f32 [rows, 1]; other tensors are as
// they were. Of a whole row
//   scale = max|w| / 448 (fp8) or / 127 (int8), 1 for a row of zeros;   code = w / scale, to nearest even,
// each rounded to f32 before: the same codes in every layout. A code is read from all of its row, so that a rank that
// holds columns reads the whole matrix; reading codes and scales reads the values twice. What is not a number makes a
// code of fp8 that is none; int8 has no such code: reading is InvalidArgument then.
// int4 has scales within, and none beside. For each kInt4Group columns, counted from the first (fewer may be left):
//   d = (max(w, 0) - min(w, 0)) / 15 rounded to f16;   z = - min(w, 0) / d;   code = w / d + z,   0 to 15, to nearest
//   even
// Asymmetric, for the format has a zero point in any case: 16 codes over what a group spans, and 0 is exact. A group
// with what is not a number has a d that is none. Rows are in whole blocks of 32.
inline constexpr int64_t kInt4Group = 128;
std::shared_ptr<const Checkpoint> QuantiseAtLoad(std::shared_ptr<const Checkpoint> like, const ModelConfig& config,
                                                 DType type);

// The same by the name of --quantization: "auto" is `like` itself, "fp8", "int8" and "int4" the types. InvalidArgument:
// another; int4 for a model with rows that are not in whole blocks.
absl::StatusOr<std::shared_ptr<const Checkpoint>> QuantiseAs(std::string_view name,
                                                             std::shared_ptr<const Checkpoint> like,
                                                             const ModelConfig& config);

}  // namespace shoal::model
