// How an accelerator says that its memory does not suffice.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/ops/accelerator.h"

namespace shoal::cuda {

inline absl::Status OutOfMemory(size_t asked, const ops::Accelerator::MemoryInfo& memory) {
  return absl::ResourceExhaustedError(
      absl::StrCat("out of device memory: ", asked, " bytes asked, ", memory.free, " free of ", memory.total));
}

}  // namespace shoal::cuda
