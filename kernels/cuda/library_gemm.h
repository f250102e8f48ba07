// --numerics fast: which products a library of the device's multiplies, and how it is asked. Pure decisions and an
// interface: no library's headers. The implementation is cublaslt_gemm.h, what it is asked for fast_matmul.h.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "kernels/cuda/device_stream.h"

namespace shoal::cuda {

// y[t, n] = x_scale[t] * w_scale[n] * sum over k of x[t, k] * w[n, k], sums in f32; or that added to what y holds, in
// f32, and rounded once. All on the device.
struct GemmProduct {
  const void* x;         // [tokens, k], contiguous: bf16, or with weights in e4m3 the same (quantise_rows.h)
  const float* x_scale;  // [tokens], with weights in e4m3; else null
  const void* w;         // [n, k] as PackLinear leaves it
  DType type;            // of w
  const float* w_scale;  // [n]; null: 1
  void* y;               // [tokens, n], f32 or bf16
  bool f32_out;          // y is f32
  int64_t y_stride;      // in elements
  int64_t tokens, n, k;
  bool adds = false;  // to what y holds
};

// Where activations are quantised for products with weights in e4m3, on the device. Of a device that does not multiply
// them: empty.
struct GemmScratch {
  uint8_t* codes = nullptr;  // `bytes` of them, 16-byte aligned
  float* scales = nullptr;   // `tokens` of them, 16-byte aligned
  int64_t bytes = 0, tokens = 0;
};
// As much as one step of 2048 tokens needs of a feed-forward width of 32768; longer ones go piece by piece.
inline constexpr int64_t kGemmScratchBytes = int64_t{64} << 20;
inline constexpr int64_t kGemmScratchTokens = 16384;
// How many tokens go at once, a multiple of 128 (of tiles, as libraries have them); 0: too few to be worth it.
int64_t TokensAtOnce(const GemmScratch& scratch, int64_t k);

// Up to so many tokens the own kernels are at the limit of memory or near it (README, `linear`), and their bits are
// those of invariant; beyond, a library has instructions (wgmma) that they have not. An estimate: nothing was measured.
inline constexpr int64_t kLibraryTokens = 64;
// Of what vectors and TMA load (CUDA programming guide, tensor memory access: global addresses and strides). Products
// of e4m3 need it of each dimension, too (cuBLAS, cublasLtMatmul).
inline constexpr int64_t kLibraryAlignment = 16;

// Whether the library is to be asked for a product whose x is bf16 as yet. bf16, and e4m3 with a factor for each row,
// where the scratch has room for x; no library multiplies bf16 by f16, int8 or block-quantised weights.
bool LibraryTakes(const GemmProduct& p, const GemmScratch& scratch);

// The number of tokens that an algorithm is chosen for: `tokens` rounded up to an eighth of the power of two below it,
// so that an octave has eight choices.
int64_t TokenBucket(int64_t tokens);

// One for each accelerator; its one thread.
class LibraryGemm {
 public:
  explicit LibraryGemm(const GemmScratch& scratch) : scratch_(scratch) {}
  virtual ~LibraryGemm() = default;
  LibraryGemm(const LibraryGemm&) = delete;
  LibraryGemm& operator=(const LibraryGemm&) = delete;

  const GemmScratch& scratch() const { return scratch_; }

  // Whether Multiply is to be called, for products that LibraryTakes. False: the library has nothing for it, or may not
  // look for it now. Internal: the library's words.
  virtual absl::StatusOr<bool> Has(const GemmProduct& p) = 0;
  // Enqueues a product that it Has. False: the library refuses it after all, nothing was enqueued, and it Has it no
  // more. Internal: the library's words.
  virtual absl::StatusOr<bool> Multiply(DeviceStream stream, const GemmProduct& p) = 0;
  // While a graph is recorded nothing new is looked for: what was enqueued before with the same sizes is known.
  // (cublasLtMatmulAlgoGetHeuristic of CUDA 13.3 fails meanwhile; and a kernel is loaded at its first launch.)
  virtual void SetRecording(bool recording) = 0;

 private:
  const GemmScratch scratch_;
};

}  // namespace shoal::cuda
