// Tested by: tests/kernels/cuda/emulated_test.cc
#include "kernels/cuda/warp.h"

#include <cstdlib>

namespace shoal::cuda::emulated {
namespace {

float Half(uint32_t pair, int which) { return BF16ToF32(static_cast<uint16_t>(pair >> (16 * which))); }

// Rows 8m to 8m + 7 of the addresses are matrix m.
void LoadOfWarp(const WarpSlots& in, WarpSlots& out, bool transposed) {
  for (int lane = 0; lane < 32; ++lane) {
    const auto address = reinterpret_cast<uintptr_t>(At<const void*>(in, lane));
    if (address % 16 != 0) std::abort();  // a device faults
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int own = lane / 4, other = 2 * (lane % 4) + i;
        const auto* row = static_cast<const uint16_t*>(At<const void*>(in, 8 * m + (transposed ? other : own)));
        pair[i] = row[transposed ? own : other];
      }
      At<uint32_t[4]>(out, lane)[m] = pair[0] | uint32_t{pair[1]} << 16;
    }
  }
}

}  // namespace

void MmaOfWarp(uint32_t, const WarpSlots& in, WarpSlots& out) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& x = At<MmaIn>(in, lane);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][2 * t + i + 8 * (r / 2)] = Half(x.a[r], i);
      for (int r = 0; r < 2; ++r) b[2 * t + i + 8 * r][g] = Half(x.b[r], i);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& x = At<MmaIn>(in, lane);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      double sum = x.d[i];
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      At<float[4]>(out, lane)[i] = static_cast<float>(sum);
    }
  }
}

void LoadMatricesOfWarp(uint32_t, const WarpSlots& in, WarpSlots& out) { LoadOfWarp(in, out, false); }
void LoadMatricesTransposedOfWarp(uint32_t, const WarpSlots& in, WarpSlots& out) { LoadOfWarp(in, out, true); }

void TransposeOfWarp(uint32_t, const WarpSlots& in, WarpSlots& out) {
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t pair = 0;
    for (int i = 0; i < 2; ++i) {
      const int row = lane / 4, column = 2 * (lane % 4) + i;  // of the result
      pair |= (At<uint32_t>(in, 4 * column + row / 2) >> (16 * (row % 2)) & 0xffff) << (16 * i);
    }
    At<uint32_t>(out, lane) = pair;
  }
}

}  // namespace shoal::cuda::emulated
