// Tested by: tests/rank/memory_report_test.cc
#include "worker/rank/memory_report.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shoal::rank {

MemoryReport::MemoryReport(ops::Accelerator* accelerator, int64_t planned, std::function<void(const std::string&)> say)
    : accelerator_(accelerator), planned_(planned), say_(std::move(say)) {}

void MemoryReport::AfterStep() {
  if (planned_ <= 0 || steps_ >= kLastLook || !std::has_single_bit(++steps_)) return;
  const auto memory = accelerator_->Memory();
  if (!memory.ok()) return;  // the next mark says so, and better
  const auto in_use = static_cast<int64_t>(memory->total - memory->free);
  const double apart = static_cast<double>(in_use - planned_) / static_cast<double>(planned_);
  const bool over = apart > kTolerance;
  if (steps_ > 1 && (!over || warned_)) return;
  warned_ = over;
  say_(absl::StrFormat("device memory: %d MiB in use, %d MiB planned (%+.1f %%)%s", in_use >> 20, planned_ >> 20,
                       100 * apart,
                       over ? ": another process has some of it, or graphs and channels take more than is kept for "
                              "them: lower --gpu-memory-utilization if memory runs out"
                            : ""));
}

}  // namespace shoal::rank
