// Weights into the stored types, as simply as possible (absolute maximum, nearest value): for test models.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/base/dtype.h"

namespace shoal::testing {

// The bytes of `values` in type `t`; their number is a multiple of the type's block. Types of one byte: the nearest.
std::string Stored(DType t, std::span<const float> values);

// Rows of `columns` values in a type of one byte, each with the scale that makes its largest value the largest code.
struct StoredRows {
  std::string codes;
  std::vector<float> scales;
};
StoredRows StoredByRows(DType t, std::span<const float> values, int64_t columns);

}  // namespace shoal::testing
