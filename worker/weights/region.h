// How a region of weights lies in memory. Shared by the loader, which writes it, and Bind, which believes none of it.
#pragma once

#include <cstdint>

#include "worker/weights/weights.h"

namespace shoal::weights {

inline constexpr char kRegionMagic[8] = {'S', 'H', 'O', 'A', 'L', 'W', 'T', 'S'};
inline constexpr uint32_t kRegionVersion = 3;
inline constexpr int64_t kTensorAlignment = 64;  // a cache line; what ops::Weight asks for

// At offset 0. The magic is written last: a region whose loading was interrupted is none.
struct RegionHeader {
  char magic[8];
  uint32_t version;
  uint32_t entries;  // RegionEntry[entries] follow
  int64_t region_bytes;
  char packed_by[32];  // OpTable::name, zero-padded
};

// The piece [row_begin, row_end) x [column_begin, column_end) of a stored tensor.
struct RegionEntry {
  uint8_t role;   // model::Role
  uint8_t dtype;  // DType, as packed
  uint8_t part;   // WeightLayout::Part
  uint8_t reserved;
  int32_t layer;
  int32_t expert;
  int32_t row_begin, row_end, column_begin, column_end;
  int32_t reserved_too;
  int64_t offset, bytes;  // in the region
};
static_assert(sizeof(RegionHeader) == 56 && sizeof(RegionEntry) == 48);

inline int64_t AlignUp(int64_t n) { return (n + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

// First byte behind header and directory.
inline int64_t DirectoryBytes(size_t entries) {
  return AlignUp(static_cast<int64_t>(sizeof(RegionHeader) + entries * sizeof(RegionEntry)));
}

// Whether one stored scale serves all rows.
inline bool OneForAll(const WeightLayout::Item& item) {
  return item.part == WeightLayout::Part::kRowScale &&
         item.stored->bytes == static_cast<int64_t>(RowBytes(item.stored->dtype, 1));
}

// What an item's slice takes of the stored tensor.
inline int64_t StoredRows(const WeightLayout::Item& item) { return OneForAll(item) ? 1 : item.slice.rows.size(); }
inline int64_t StoredRowBytes(const WeightLayout::Item& item) {
  return static_cast<int64_t>(RowBytes(item.stored->dtype, item.slice.columns.size()));
}

}  // namespace shoal::weights
