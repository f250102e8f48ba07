// What every transport asks of a group's shape.
#pragma once

#include "absl/status/status.h"
#include "worker/comm/collective.h"

namespace shoal::comm {

// InvalidArgument: no such shape, or no such rank in it.
absl::Status CheckShape(const GroupShape& shape, int rank);

// Ranks that connect must have the same. Never 0.
uint64_t ShapeHash(const GroupShape& shape);

}  // namespace shoal::comm
