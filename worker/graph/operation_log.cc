// Tested by: tests/graph/operation_log_test.cc
#include "worker/graph/operation_log.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal::graph {

std::string OperationNames(const OperationSet& operations) {
  std::string names;
  for (uint32_t op = 0; op < operations.size(); ++op) {
    if (operations[op]) absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(OperationName(op)));
  }
  return names;
}

// Another error is not the device's: the wait was cut short.
void OperationLog::CheckPresent() {
  if (await_ != nullptr && !failed_.has_value() && absl::IsInternal(await_())) failed_ = present_;
}

void OperationLog::Begin(Operation op) {
  CheckPresent();
  present_ = op;
  begun_.set(static_cast<size_t>(op));
  Show(op);
  stream_->Advance();
}

OperationSet OperationLog::Take() { return std::exchange(begun_, {}); }

std::optional<Operation> OperationLog::Failed() {
  CheckPresent();
  return failed_;
}

}  // namespace shoal::graph
