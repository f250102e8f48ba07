#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "worker/weights/region.h"
#include "worker/weights/weights.h"

namespace shoal::weights {
namespace {

// Source bytes of one task: long enough that a read is a large one, short enough to spread over threads and to notice
// a cancellation soon.
constexpr int64_t kTaskBytes = 1 << 20;

// Rows [begin, begin + count) of an item's slice; begin is a multiple of the table's row group.
struct Task {
  const WeightLayout::Item* item;
  int64_t begin, count;
};

std::vector<Task> MakeTasks(const WeightLayout& layout, int64_t row_group) {
  std::vector<Task> tasks;
  for (const WeightLayout::Item& item : layout.items) {
    if (item.bytes == 0) continue;
    const int64_t rows = item.slice.rows.size();
    if (item.part == WeightLayout::Part::kRowScale) {
      tasks.push_back({&item, 0, rows});
      continue;
    }
    const int64_t groups = std::max<int64_t>(1, kTaskBytes / (StoredRowBytes(item) * row_group));
    for (int64_t at = 0; at < rows; at += groups * row_group) {
      tasks.push_back({&item, at, std::min(rows - at, groups * row_group)});
    }
  }
  return tasks;
}

// Memory that one thread uses again and again.
struct Scratch {
  std::vector<std::byte> raw;
  std::vector<float> wide;
};

class Loader {
 public:
  Loader(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
         std::span<std::byte> region, std::atomic<int64_t>* progress, const std::atomic<bool>* cancelled)
      : checkpoint_(checkpoint),
        table_(table),
        region_(region),
        progress_(progress),
        cancelled_(cancelled),
        tasks_(MakeTasks(layout, table.row_group)) {}

  // The caller's thread is one of the `threads`.
  absl::Status Run(int threads) {
    std::vector<std::thread> pool;
    for (int i = 1; i < threads; ++i) pool.emplace_back([this] { Work(); });
    Work();
    for (std::thread& t : pool) t.join();
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  void Work() {
    Scratch scratch;
    for (;;) {
      const size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks_.size() || failed_.load(std::memory_order_relaxed)) return;
      const bool stop = cancelled_ != nullptr && cancelled_->load(std::memory_order_relaxed);
      const absl::Status status = stop ? absl::CancelledError("loading was cancelled") : RunTask(tasks_[i], scratch);
      if (status.ok()) continue;
      MutexLock lock(mutex_);
      if (status_.ok()) status_ = status;
      failed_.store(true, std::memory_order_relaxed);
    }
  }

  absl::Status RunTask(const Task& task, Scratch& scratch) {
    const WeightLayout::Item& item = *task.item;
    const int64_t columns = item.slice.columns.size();
    if (item.part == WeightLayout::Part::kRowScale) return LoadRowScale(item, scratch);
    SHOAL_RETURN_IF_ERROR(ReadRows(task, scratch.raw));
    const void* rows = scratch.raw.data();
    if (item.dtype != item.stored->dtype) {
      scratch.wide.resize(static_cast<size_t>(task.count * columns));
      DequantiseRow(item.stored->dtype, rows, task.count * columns, scratch.wide.data());
      rows = scratch.wide.data();
    }
    std::byte* dst = region_.data() + item.offset;
    if (IsVector(item.spec)) {
      std::memcpy(dst, rows, static_cast<size_t>(item.bytes));
    } else {
      table_.pack_rows(item.dtype, rows, task.begin, task.count, item.slice.rows.size(), columns, dst);
    }
    return absl::OkStatus();
  }

  absl::Status LoadRowScale(const WeightLayout::Item& item, Scratch& scratch) {
    const int64_t rows = item.slice.rows.size(), stored = StoredRows(item), bytes = StoredRowBytes(item);
    scratch.raw.resize(static_cast<size_t>(stored * bytes));
    const int64_t first = OneForAll(item) ? 0 : item.slice.rows.begin;
    SHOAL_RETURN_IF_ERROR(checkpoint_.Read(*item.stored, first * bytes, scratch.raw));
    if (progress_ != nullptr) progress_->fetch_add(stored * bytes, std::memory_order_relaxed);
    auto* dst = reinterpret_cast<float*>(region_.data() + item.offset);
    DequantiseRow(item.stored->dtype, scratch.raw.data(), stored, dst);
    std::fill_n(dst + stored, rows - stored, *dst);
    return absl::OkStatus();
  }

  // The rows of the task side by side in `raw`. Whole rows are one read, columns one read per row.
  absl::Status ReadRows(const Task& task, std::vector<std::byte>& raw) {
    const WeightLayout::Item& item = *task.item;
    const DType type = item.stored->dtype;
    const auto stored_row = static_cast<int64_t>(RowBytes(type, item.stored->shape.back()));
    const auto skip = static_cast<int64_t>(RowBytes(type, item.slice.columns.begin));
    const auto row_bytes = static_cast<int64_t>(RowBytes(type, item.slice.columns.size()));
    raw.resize(static_cast<size_t>(task.count * row_bytes));
    const int64_t first = item.slice.rows.begin + task.begin;
    const int64_t rows_per_read = row_bytes == stored_row ? task.count : 1;
    for (int64_t r = 0; r < task.count; r += rows_per_read) {
      const auto part =
          std::span(raw).subspan(static_cast<size_t>(r * row_bytes), static_cast<size_t>(rows_per_read * row_bytes));
      SHOAL_RETURN_IF_ERROR(checkpoint_.Read(*item.stored, (first + r) * stored_row + skip, part));
    }
    if (progress_ != nullptr) progress_->fetch_add(static_cast<int64_t>(raw.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

  const model::Checkpoint& checkpoint_;
  const ops::OpTable& table_;
  const std::span<std::byte> region_;
  std::atomic<int64_t>* const progress_;
  const std::atomic<bool>* const cancelled_;
  const std::vector<Task> tasks_;

  std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  Mutex mutex_;
  absl::Status status_ SHOAL_GUARDED_BY(mutex_);  // of the first task that failed
};

void WriteDirectory(const WeightLayout& layout, const ops::OpTable& table, std::span<std::byte> region) {
  RegionHeader header = {.magic = {},
                         .version = kRegionVersion,
                         .entries = static_cast<uint32_t>(layout.items.size()),
                         .region_bytes = layout.region_bytes,
                         .packed_by = {}};
  std::copy_n(table.name.data(), std::min(table.name.size(), sizeof(header.packed_by) - 1), header.packed_by);
  std::memcpy(region.data(), &header, sizeof(header));
  std::byte* at = region.data() + sizeof(header);
  for (const WeightLayout::Item& item : layout.items) {
    const RegionEntry entry = {.role = static_cast<uint8_t>(item.spec.role),
                               .dtype = static_cast<uint8_t>(item.dtype),
                               .part = static_cast<uint8_t>(item.part),
                               .reserved = 0,
                               .layer = item.spec.layer,
                               .row_begin = item.slice.rows.begin,
                               .row_end = item.slice.rows.end,
                               .column_begin = item.slice.columns.begin,
                               .column_end = item.slice.columns.end,
                               .offset = item.offset,
                               .bytes = item.bytes};
    std::memcpy(at, &entry, sizeof(entry));
    at += sizeof(entry);
  }
}

}  // namespace

absl::Status LoadShard(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
                       std::span<std::byte> region, int threads, std::atomic<int64_t>* progress,
                       const std::atomic<bool>* cancelled) {
  SHOAL_CHECK(threads >= 1 && reinterpret_cast<uintptr_t>(region.data()) % kTensorAlignment == 0);
  if (static_cast<int64_t>(region.size()) < layout.region_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the region has ", region.size(), " bytes, the weights need ", layout.region_bytes));
  }
  WriteDirectory(layout, table, region);  // takes away the magic of what was there before
  Loader loader(checkpoint, layout, table, region, progress, cancelled);
  SHOAL_RETURN_IF_ERROR(loader.Run(threads));
  std::memcpy(region.data(), kRegionMagic, sizeof(kRegionMagic));
  return absl::OkStatus();
}

}  // namespace shoal::weights
