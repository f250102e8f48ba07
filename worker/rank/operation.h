// The name behind ControlPage::operation.
#pragma once

#include "worker/graph/operation.h"

namespace shoal::rank {

using graph::Operation;
using graph::OperationName;

}  // namespace shoal::rank
