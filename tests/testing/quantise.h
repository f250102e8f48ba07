// Weights into the stored types, as simply as possible (absolute maximum, nearest value): for test models.
#pragma once

#include <span>
#include <string>

#include "common/base/dtype.h"

namespace shoal::testing {

// The bytes of `values` in type `t`; their number is a multiple of the type's block.
std::string Stored(DType t, std::span<const float> values);

}  // namespace shoal::testing
