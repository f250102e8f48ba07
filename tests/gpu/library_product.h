// Products as cuBLASLt multiplies them, beside which our own are timed: y[t, n] = sum over k of x[t, k] * w[n, k], in
// bf16. One thread, that of the device.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "worker/device/device.h"

namespace shoal::gpu {

class LibraryProduct {
 public:
  // On the queue of `device`, whose native stream is given; the device outlives it. FailedPrecondition: there is no
  // cuBLASLt here, with what helps.
  static absl::StatusOr<std::unique_ptr<LibraryProduct>> Open(device::Device* device, void* native_stream);
  virtual ~LibraryProduct() = default;

  struct Product {
    DType type;     // of x and w: kBF16, or kF8E4M3 with factors of 1
    const void* x;  // [tokens, k]
    const void* w;  // [n, k]
    void* y;        // [tokens, n] bf16
    int64_t tokens, n, k;
  };
  // Enqueues it. False: cuBLASLt has nothing for it. The first with a size may do what no recording of a graph allows.
  virtual absl::StatusOr<bool> Multiply(const Product& product) = 0;
};

}  // namespace shoal::gpu
