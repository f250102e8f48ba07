// Quantising at load: a checkpoint of plain types read as if its matrices were stored in a type of one byte.
#pragma once

#include <memory>

#include "common/base/dtype.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace shoal::model {

// Like `like`, but that the matrices inside the layers that are f32, f16 or bf16 are of `type` (of one byte), each
// followed by the scales of its rows, "<name>_scale" f32 [rows, 1]; other tensors are as they were. Of a whole row
//   scale = max|w| / 448 (fp8) or / 127 (int8), 1 for a row of zeros;   code = w / scale, to nearest even,
// each rounded to f32 before: the same codes in every layout. A code is read from all of its row, so that a rank that
// holds columns reads the whole matrix; reading codes and scales reads the values twice. What is not a number makes a
// code of fp8 that is none; int8 has no such code: reading is InvalidArgument then.
std::shared_ptr<const Checkpoint> QuantiseAtLoad(std::shared_ptr<const Checkpoint> like, const ModelConfig& config,
                                                 DType type);

}  // namespace shoal::model
