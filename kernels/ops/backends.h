// The backends that are compiled in. The only header through which the rest of the program meets them.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/op_table.h"

namespace shoal::ops {

// The table called `name`: "ref", "null", "cpu" (the best set this machine has), or "cpu-scalar", "cpu-avx2", ...
// The environment variable SHOAL_CPU_ISA (scalar | avx2 | ...) overrides what "cpu" picks. NotFound lists what there
// is; FailedPrecondition when the machine lacks the instructions.
absl::StatusOr<const OpTable*> FindOpTable(std::string_view name);

// The tables that this machine can run, slowest first. Tests run all of them.
std::vector<const OpTable*> RunnableOpTables();

// A persistent pool of `threads` threads, the caller's included (threads = 1 starts none). Idle threads spin briefly,
// then sleep on a futex, so that more ranks than cores still make progress.
std::unique_ptr<Stream> MakeCpuStream(int threads);

}  // namespace shoal::ops
