// What 32 lanes do together, and copies into shared memory. All lanes call; results are the same wherever it runs, but
// for the order in which Mma sums its 16 products.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

// x of lane `lane ^ mask`.
__device__ float ShuffleXor(float x, int mask);
__device__ int ShuffleXor(int x, int mask);
// x of lane `lane`.
__device__ float Shuffle(float x, int lane);
__device__ int Shuffle(int x, int lane);
// Bit i: lane i's `vote`.
__device__ uint32_t Ballot(bool vote);
// Bit i: lane i's x is this lane's.
__device__ uint32_t MatchAny(uint64_t x);
__device__ void SyncWarp();

// Sums over the warp: by halves, distance 16, 8, ... 1, the same bits in every lane.
__device__ inline float WarpSum(float x) {
  SHOAL_UNROLL for (int d = 16; d > 0; d /= 2) x += ShuffleXor(x, d);
  return x;
}
__device__ inline float WarpMax(float x) {
  SHOAL_UNROLL for (int d = 16; d > 0; d /= 2) x = fmaxf(x, ShuffleXor(x, d));
  return x;
}

// d = a * b + d for a [16, 16] (row major) times b [16, 8] (column major) in bf16, sums in f32: mma.m16n8k16 of the PTX
// ISA. With g = lane / 4 and t = lane % 4, a lane holds pairs of neighbours:
//   a[0]: row g, columns 2t   a[1]: row g + 8, 2t   a[2]: row g, 2t + 8   a[3]: row g + 8, 2t + 8
//   b[0]: rows 2t of column g   b[1]: rows 2t + 8     d[0], d[1]: row g, columns 2t, 2t + 1   d[2], d[3]: row g + 8
__device__ void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// Four 8x8 matrices of 16-bit elements from shared memory: lane i gives the 16-byte aligned address of row i % 8 of
// matrix i / 8; r[m] holds, of matrix m, row lane / 4, columns 2 (lane % 4) and one more. Transposed: of its transpose.
__device__ void LoadMatrices(uint32_t (&r)[4], const void* row);
__device__ void LoadMatricesTransposed(uint32_t (&r)[4], const void* row);

// 16 bytes from global to shared memory, both aligned; zeros instead when not `valid` (then nothing is read). They are
// there after this thread has waited for their group; other threads see them after a barrier that follows.
__device__ void CopyAsync16(void* shared, const void* global, bool valid);
__device__ void CommitCopies();
// Until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ void WaitCopies();

// The transpose of an 8x8 matrix of 16-bit elements, of which a lane holds row lane / 4, columns 2 (lane % 4) and one
// more.
__device__ uint32_t Transpose(uint32_t pair);

// 2^x to about 2 units in the last place; what is below 2^-126 is 0.
__device__ float Exp2(float x);

// x, of which the compiler then knows nothing: what is computed from it is computed where it is written, not kept in
// registers around a loop.
__device__ int Opaque(int x);

// Two values rounded to bf16, to f16, the first in the low half.
__device__ uint32_t PackBf16(float low, float high);
__device__ uint32_t PackF16(float low, float high);
// Two values rounded to e4m3, to nearest even, to +-448 where they are beyond; the first in the low byte of 16 bits.
__device__ uint32_t PackE4M3(float low, float high);
// a * b + c of two pairs of bf16, each rounded once.
__device__ uint32_t FmaBf16(uint32_t a, uint32_t b, uint32_t c);
// A pair of f16, the low half first.
__device__ float2 UnpackF16(uint32_t pair);

// Aligned loads of global memory that this kernel nowhere writes and this multiprocessor will not read again.
__device__ uint4 LoadOnce(const uint4* at);
__device__ uint2 LoadOnce(const uint2* at);
__device__ uint32_t LoadOnce(const uint32_t* at);

}  // namespace shoal::cuda

#if defined(__CUDACC__)
#include "kernels/cuda/warp_ptx.h"
#else
#include "kernels/cuda/emulated/warp.h"
#endif
