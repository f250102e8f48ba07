// Tested by tests/kernels/null_test.cc
#include "kernels/ops/soft_cap.h"

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status SoftCap(Stream& stream, const SoftCapArgs&) {
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
