// Tested by: tests/kernels/cuda/dummy_matrix_test.cc
// A thread makes what lies side by side: eight columns of a row of a plain type, sixteen of one of one byte, a block of
// a quantised one. Writes each byte once and reads nothing; its limit is the generator, some 70
// integer instructions a draw, which fills 8 bytes of f16, 4 of fp8, 6 of Q4_0.
#include "common/base/status_macros.h"
#include "kernels/cuda/dummy_matrix.h"
#include "kernels/cuda/linear_pack.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

using ops::DummyMatrixArgs;

__device__ uint64_t FirstOf(const DummyMatrixArgs& op, int64_t row, int64_t column) {
  return static_cast<uint64_t>((op.row_begin + row) * op.columns + op.column_begin + column);
}

// Block x is row x.
template <typename T>
__global__ void __launch_bounds__(kRowThreads) DummyRow(const DummyMatrixArgs op) {
  const int64_t at = int64_t{8} * RowVector(), row = blockIdx.x;
  if (at >= op.k) return;
  T* const to = static_cast<T*>(op.data) + row * op.k + at;
  const uint64_t first = FirstOf(op, row, at);
  if (op.k % 8 != 0 || first % kDummyUnit != 0) {  // sizes of no model: a draw for each element
    SHOAL_KEEP_LOOP for (int i = 0; i < 8 && at + i < op.k; ++i) {
      const uint64_t unit = DummyBits(op.tensor, (first + i) / kDummyUnit);
      to[i] = FromFloat<T>(DummyPlain(DummyBitsOf(unit, first + i), op.tensor.kind));
    }
    return;
  }
  Vec8 v;
  SHOAL_UNROLL for (int unit = 0; unit < 2; ++unit) {
    const uint64_t bits = DummyBits(op.tensor, first / kDummyUnit + unit);
    SHOAL_UNROLL for (int i = 0; i < kDummyUnit; ++i) {
      v.of[kDummyUnit * unit + i] = DummyPlain(DummyBitsOf(bits, i), op.tensor.kind);
    }
  }
  Store8(to, v);
}

// Block x is row x of a type of one byte.
template <DType kType>
__global__ void __launch_bounds__(kRowThreads) DummyBytes(const DummyMatrixArgs op) {
  static_assert(kDummyUnit == 4);
  const int64_t at = int64_t{16} * RowVector(), row = blockIdx.x;
  if (at >= op.k) return;
  const uint64_t first = FirstOf(op, row, at);
  uint32_t codes[4] = {};
  SHOAL_UNROLL for (int unit = 0; unit < 4; ++unit) {
    const uint64_t bits = DummyBits(op.tensor, first / kDummyUnit + unit);
    SHOAL_UNROLL for (int c = 0; c < kDummyUnit; ++c) {
      codes[unit] |= uint32_t{DummyByte(kType, DummyBitsOf(bits, c), op.tensor.kind)} << 8 * c;
    }
  }
  *reinterpret_cast<uint4*>(static_cast<uint8_t*>(op.data) + row * op.k + at) = {codes[0], codes[1], codes[2],
                                                                                 codes[3]};
}

// Block x is a tile; each 16 threads have a block of its rows.
template <DType kType, typename Block>
__global__ void __launch_bounds__(kRowThreads) DummyBlocksOfTile(const DummyMatrixArgs op) {
  constexpr linear::BlockLayout kLayout = linear::LayoutOf(kType);
  const int thread = RowVector(), in_tile = thread % linear::kRowTile, block = thread / linear::kRowTile;
  const int64_t blocks = op.k / kQuantBlock, row = int64_t{blockIdx.x} * linear::kRowTile + in_tile;
  if (block >= blocks) return;
  Block made = {};
  if (row < op.n) MakeDummyBlock(op.tensor, FirstOf(op, row, 0) / kQuantBlock + static_cast<uint64_t>(block), &made);
  uint8_t* const tile = static_cast<uint8_t*>(op.data) + blockIdx.x * linear::TileBytes(kLayout, op.k);
  linear::PutBlock(made, kLayout, in_tile, block, blocks, tile);
}

using Kernel = void (*)(DummyMatrixArgs);

absl::Status CheckBlocks(const DummyMatrixArgs& op) {
  if (op.k % kQuantBlock == 0 && op.columns % kQuantBlock == 0 && op.column_begin % kQuantBlock == 0)
    return absl::OkStatus();
  return absl::InvalidArgumentError("dummy_matrix: the columns are not in whole blocks");
}
absl::Status EnqueueTiles(DeviceStream stream, const DummyMatrixArgs& op, Kernel kernel) {
  return Launch(stream, "dummy_matrix",
                RowGrid(static_cast<int>(linear::TilesOf(op.n)), op.k / kQuantBlock * linear::kRowTile), kernel, op);
}
absl::Status EnqueueBytes(DeviceStream stream, const DummyMatrixArgs& op, Kernel kernel) {
  SHOAL_RETURN_IF_ERROR(CheckBlocks(op));
  return Launch(stream, "dummy_matrix", RowGrid(static_cast<int>(op.n), op.k / 16), kernel, op);
}
absl::Status EnqueueRows(DeviceStream stream, const DummyMatrixArgs& op, Kernel kernel) {
  return Launch(stream, "dummy_matrix", RowGrid(static_cast<int>(op.n), (op.k + 7) / 8), kernel, op);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const DummyMatrixArgs& op) {
  const absl::Status checked = ops::CheckDummyMatrix(op);
  if (!checked.ok() || op.n == 0 || op.k == 0) return checked;
  switch (op.tensor.type) {
    case DType::kF32:
      return EnqueueRows(stream, op, DummyRow<float>);
    case DType::kF16:
      return EnqueueRows(stream, op, DummyRow<f16>);
    case DType::kBF16:
      return EnqueueRows(stream, op, DummyRow<bf16>);
    case DType::kQ8_0:
      return EnqueueTiles(stream, op, DummyBlocksOfTile<DType::kQ8_0, BlockQ8_0>);
    case DType::kQ4_0:
      return EnqueueTiles(stream, op, DummyBlocksOfTile<DType::kQ4_0, BlockQ4_0>);
    case DType::kQ4_1:
      return EnqueueTiles(stream, op, DummyBlocksOfTile<DType::kQ4_1, BlockQ4_1>);
    case DType::kI4:
      return EnqueueTiles(stream, op, DummyBlocksOfTile<DType::kI4, BlockI4>);
    case DType::kF8E4M3:
      return EnqueueBytes(stream, op, DummyBytes<DType::kF8E4M3>);
    case DType::kI8:
      return EnqueueBytes(stream, op, DummyBytes<DType::kI8>);
  }
  return absl::InvalidArgumentError("dummy_matrix: a type that no weight has");
}

}  // namespace shoal::cuda
