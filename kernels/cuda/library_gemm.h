// --numerics fast: which products a library of the device's multiplies, and how it is asked. Pure decisions and an
// interface: no library's headers. The implementation is cublaslt_gemm.h.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "kernels/cuda/device_stream.h"

namespace shoal::cuda {

// y[t, n] = sum over k of x[t, k] * w[n, k], sums in f32. All on the device.
struct GemmProduct {
  const void* x;  // [tokens, k] bf16, contiguous
  const void* w;  // [n, k] as PackLinear leaves it
  DType type;     // of w
  bool row_scaled;
  void* y;           // [tokens, n], f32 or bf16
  bool f32_out;      // y is f32
  int64_t y_stride;  // in elements
  int64_t tokens, n, k;
};

// Up to so many tokens the own kernels are at the limit of memory or near it (README, `linear`), and their bits are
// those of invariant; beyond, a library has instructions (wgmma) that they have not. An estimate: nothing was measured.
inline constexpr int64_t kLibraryTokens = 64;
// Of what vectors and TMA load (CUDA programming guide, tensor memory access: global addresses and strides).
inline constexpr int64_t kLibraryAlignment = 16;

// Whether the library is to be asked. bf16 alone: x is bf16, and no library multiplies f16, one-byte or block-quantised
// weights with it; their layout here is the own kernels', too.
bool LibraryTakes(const GemmProduct& p);

// The number of tokens that an algorithm is chosen for: `tokens` rounded up to an eighth of the power of two below it,
// so that an octave has eight choices.
int64_t TokenBucket(int64_t tokens);

// One for each accelerator; its one thread.
class LibraryGemm {
 public:
  virtual ~LibraryGemm() = default;
  // Enqueues a product that LibraryTakes. False: the library has nothing for it, or may not look for it now, and
  // nothing was enqueued. Internal: the library's words.
  virtual absl::StatusOr<bool> Multiply(DeviceStream stream, const GemmProduct& p) = 0;
  // While a graph is recorded nothing new is looked for: what was enqueued before with the same sizes is known.
  // (cublasLtMatmulAlgoGetHeuristic of CUDA 13.3 fails meanwhile; and a kernel is loaded at its first launch.)
  virtual void SetRecording(bool recording) = 0;
};

}  // namespace shoal::cuda
