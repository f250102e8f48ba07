#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

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

// Of all items but those at the indices `made`, which rise.
std::vector<Task> MakeTasks(const WeightLayout& layout, int64_t row_group, std::span<const size_t> made = {}) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < layout.items.size(); ++i) {
    const WeightLayout::Item& item = layout.items[i];
    if (item.bytes == 0 || std::binary_search(made.begin(), made.end(), i)) continue;
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

// Where a task's rows lie in the region. Whole groups are packed one behind the other, so that those of a task are the
// packed form of a matrix of its rows.
struct Piece {
  int64_t offset, bytes;
};

Piece PieceOf(const Task& task, const ops::OpTable& table) {
  const WeightLayout::Item& item = *task.item;
  const bool whole = item.spec.is_vector() || item.part == WeightLayout::Part::kRowScale;
  if (whole) return {item.offset, item.bytes};
  const int64_t columns = item.slice.columns.size();
  return {item.offset + static_cast<int64_t>(table.packed_bytes(item.dtype, task.begin, columns)),
          static_cast<int64_t>(table.packed_bytes(item.dtype, task.count, columns))};
}

// Backends multiply codes of fp8 as if all were numbers (kernels/cuda/linear.h): those that are none end here.
absl::Status CheckCodes(const Task& task, std::span<const std::byte> rows) {
  const WeightLayout::Item& item = *task.item;
  if (item.stored->dtype != DType::kF8E4M3) return absl::OkStatus();
  const auto is_none = [](std::byte code) { return (code & std::byte{0x7F}) == std::byte{0x7F}; };
  int64_t none = 0;  // counted, not looked for: this the compiler makes wide
  for (const std::byte code : rows) none += is_none(code) ? 1 : 0;
  if (none == 0) return absl::OkStatus();
  const auto at = std::find_if(rows.begin(), rows.end(), is_none) - rows.begin();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", item.spec.name, ", row ",
                                                 item.slice.rows.begin + task.begin + at / item.slice.columns.size(),
                                                 ": a value that is not a number"));
}

// Memory that one thread uses again and again.
struct Scratch {
  std::vector<std::byte> raw;
  std::vector<float> wide;
};

class Loader {
 public:
  Loader(const model::Checkpoint& checkpoint, const ops::OpTable& table, std::vector<Task> tasks, RegionWriter& writer,
         std::atomic<int64_t>* progress, const std::atomic<bool>* cancelled)
      : checkpoint_(checkpoint),
        table_(table),
        writer_(writer),
        progress_(progress),
        cancelled_(cancelled),
        tasks_(std::move(tasks)) {}

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
    SHOAL_RETURN_IF_ERROR(CheckCodes(task, scratch.raw));
    const void* rows = scratch.raw.data();
    if (item.dtype != item.stored->dtype) {
      scratch.wide.resize(static_cast<size_t>(task.count * columns));
      DequantiseRow(item.stored->dtype, rows, task.count * columns, scratch.wide.data());
      rows = scratch.wide.data();
    }
    const Piece piece = PieceOf(task, table_);
    SHOAL_ASSIGN_OR_RETURN(std::byte* const room, writer_.Room(piece.offset, piece.bytes));
    if (item.spec.is_vector()) {
      std::memcpy(room, rows, static_cast<size_t>(item.bytes));
    } else {
      table_.pack_rows(item.dtype, rows, 0, task.count, task.count, columns, room);
    }
    return writer_.Put(room, piece.offset, piece.bytes);
  }

  absl::Status LoadRowScale(const WeightLayout::Item& item, Scratch& scratch) {
    const int64_t rows = item.slice.rows.size(), stored = StoredRows(item), bytes = StoredRowBytes(item);
    scratch.raw.resize(static_cast<size_t>(stored * bytes));
    const int64_t first = OneForAll(item) ? 0 : item.slice.rows.begin;
    SHOAL_RETURN_IF_ERROR(checkpoint_.Read(*item.stored, first * bytes, scratch.raw));
    if (progress_ != nullptr) progress_->fetch_add(stored * bytes, std::memory_order_relaxed);
    SHOAL_ASSIGN_OR_RETURN(std::byte* const room, writer_.Room(item.offset, item.bytes));
    auto* const dst = reinterpret_cast<float*>(room);
    DequantiseRow(item.stored->dtype, scratch.raw.data(), stored, dst);
    std::fill_n(dst + stored, rows - stored, *dst);
    return writer_.Put(room, item.offset, item.bytes);
  }

  // The rows of the task side by side in `raw`.
  absl::Status ReadRows(const Task& task, std::vector<std::byte>& raw) {
    const WeightLayout::Item& item = *task.item;
    raw.resize(static_cast<size_t>(task.count * StoredRowBytes(item)));
    const model::TensorBlock block = {.row = item.slice.rows.begin + task.begin,
                                      .rows = task.count,
                                      .column = item.slice.columns.begin,
                                      .columns = item.slice.columns.size()};
    SHOAL_RETURN_IF_ERROR(checkpoint_.ReadBlock(*item.stored, block, raw));
    if (progress_ != nullptr) progress_->fetch_add(static_cast<int64_t>(raw.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

  const model::Checkpoint& checkpoint_;
  const ops::OpTable& table_;
  RegionWriter& writer_;
  std::atomic<int64_t>* const progress_;
  const std::atomic<bool>* const cancelled_;
  const std::vector<Task> tasks_;

  std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  Mutex mutex_;
  absl::Status status_ SHOAL_GUARDED_BY(mutex_);  // of the first task that failed
};

// Without the magic.
std::vector<std::byte> MakeDirectory(const WeightLayout& layout, const ops::OpTable& table) {
  RegionHeader header = {.magic = {},
                         .version = kRegionVersion,
                         .entries = static_cast<uint32_t>(layout.items.size()),
                         .region_bytes = layout.region_bytes,
                         .packed_by = {}};
  std::copy_n(table.name.data(), std::min(table.name.size(), sizeof(header.packed_by) - 1), header.packed_by);
  std::vector<std::byte> directory(static_cast<size_t>(DirectoryBytes(layout.items.size())));
  std::memcpy(directory.data(), &header, sizeof(header));
  std::byte* at = directory.data() + sizeof(header);
  for (const WeightLayout::Item& item : layout.items) {
    const RegionEntry entry = {.role = static_cast<uint8_t>(item.spec.role),
                               .dtype = static_cast<uint8_t>(item.dtype),
                               .part = static_cast<uint8_t>(item.part),
                               .reserved = 0,
                               .layer = item.spec.layer,
                               .expert = item.spec.expert,
                               .row_begin = item.slice.rows.begin,
                               .row_end = item.slice.rows.end,
                               .column_begin = item.slice.columns.begin,
                               .column_end = item.slice.columns.end,
                               .reserved_too = 0,
                               .offset = item.offset,
                               .bytes = item.bytes};
    std::memcpy(at, &entry, sizeof(entry));
    at += sizeof(entry);
  }
  return directory;
}

absl::Status Write(RegionWriter& writer, int64_t offset, const void* from, size_t size) {
  const auto bytes = static_cast<int64_t>(size);
  SHOAL_ASSIGN_OR_RETURN(std::byte* const room, writer.Room(offset, bytes));
  std::memcpy(room, from, size);
  return writer.Put(room, offset, bytes);
}

// The matrices that the writer makes, by their indices. Norms and scales, a thousandth of the bytes, are widened as
// they are read.
absl::StatusOr<std::vector<size_t>> MakeDummies(const model::Checkpoint& checkpoint, const WeightLayout& layout,
                                                RegionWriter& writer, std::atomic<int64_t>* progress) {
  std::vector<size_t> made;
  for (size_t i = 0; i < layout.items.size(); ++i) {
    const WeightLayout::Item& item = layout.items[i];
    const bool as_stored = item.part == WeightLayout::Part::kTensor && item.dtype == item.stored->dtype;
    const std::optional<DummyTensor> dummy = checkpoint.Dummy(*item.stored);
    if (!dummy.has_value() || !as_stored || item.spec.is_vector() || item.bytes == 0) continue;
    const ops::DummyMatrixArgs matrix = {.tensor = *dummy,
                                         .columns = item.stored->shape.back(),
                                         .row_begin = item.slice.rows.begin,
                                         .column_begin = item.slice.columns.begin,
                                         .n = item.slice.rows.size(),
                                         .k = item.slice.columns.size(),
                                         .data = nullptr};
    SHOAL_ASSIGN_OR_RETURN(const bool done, writer.MakeDummy(item.offset, matrix));
    if (!done) continue;
    made.push_back(i);
    if (progress != nullptr) progress->fetch_add(StoredRows(item) * StoredRowBytes(item), std::memory_order_relaxed);
  }
  return made;
}

// The region itself: nothing is copied.
class HostRegion final : public RegionWriter {
 public:
  explicit HostRegion(std::byte* region) : region_(region) {}
  absl::StatusOr<std::byte*> Room(int64_t offset, int64_t) override { return region_ + offset; }
  absl::Status Put(std::byte*, int64_t, int64_t) override { return absl::OkStatus(); }

 private:
  std::byte* const region_;
};

}  // namespace

int64_t LargestPiece(const WeightLayout& layout, const ops::OpTable& table) {
  int64_t largest = DirectoryBytes(layout.items.size());
  for (const Task& task : MakeTasks(layout, table.row_group)) {
    largest = std::max(largest, PieceOf(task, table).bytes);
  }
  return largest;
}

absl::Status LoadShard(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
                       RegionWriter& writer, int threads, std::atomic<int64_t>* progress,
                       const std::atomic<bool>* cancelled) {
  SHOAL_CHECK(threads >= 1);
  // Takes away the magic of what was there before.
  const std::vector<std::byte> directory = MakeDirectory(layout, table);
  SHOAL_RETURN_IF_ERROR(Write(writer, 0, directory.data(), directory.size()));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<size_t> made, MakeDummies(checkpoint, layout, writer, progress));
  Loader loader(checkpoint, table, MakeTasks(layout, table.row_group, made), writer, progress, cancelled);
  SHOAL_RETURN_IF_ERROR(loader.Run(threads));
  return Write(writer, 0, kRegionMagic, sizeof(kRegionMagic));
}

absl::Status LoadShard(const model::Checkpoint& checkpoint, const WeightLayout& layout, const ops::OpTable& table,
                       std::span<std::byte> region, int threads, std::atomic<int64_t>* progress,
                       const std::atomic<bool>* cancelled) {
  SHOAL_CHECK(reinterpret_cast<uintptr_t>(region.data()) % kTensorAlignment == 0);
  if (static_cast<int64_t>(region.size()) < layout.region_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the region has ", region.size(), " bytes, the weights need ", layout.region_bytes));
  }
  HostRegion host(region.data());
  return LoadShard(checkpoint, layout, table, host, threads, progress, cancelled);
}

}  // namespace shoal::weights
