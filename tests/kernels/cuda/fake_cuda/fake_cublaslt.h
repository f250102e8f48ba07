// A test's hold on the cuBLASLt that fake_cublaslt.cc plays.
#pragma once

#include <atomic>

namespace shoal::cuda::fake {

struct CublasLtState {
  std::atomic<int> asked = 0, checked = 0, multiplied = 0;  // calls
  std::atomic<int> alive = 0;                               // handles, descriptors, ... not given back
  std::atomic<bool> picky = false;                          // an algorithm does for the sizes it was asked for alone
  std::atomic<bool> helpless = false;                       // there is no algorithm
  std::atomic<bool> knows_fp8 = true;                       // or there is no algorithm for e4m3
  std::atomic<bool> refuses_fp8 = false;                    // there is one, and the product is refused all the same
  std::atomic<bool> failing = false;                        // whatever is asked ends in CUBLAS_STATUS_INTERNAL_ERROR
};
CublasLtState& cublaslt();

}  // namespace shoal::cuda::fake
