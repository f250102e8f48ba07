// cuBLASLt as the library of library_gemm.h. Part of the CUDA plug-in.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/library_gemm.h"

namespace shoal::cuda {

// What NVIDIA recommends for compute capability 9.0 (cuBLAS, cublasSetWorkspace).
inline constexpr size_t kGemmWorkspaceBytes = size_t{32} << 20;

// `workspace`: kGemmWorkspaceBytes of the current device, 256-byte aligned, which outlive this as `scratch` does;
// products that share them must be on one stream. FailedPrecondition: cuBLASLt is not installed, with what helps.
// Internal: its words.
absl::StatusOr<std::unique_ptr<LibraryGemm>> OpenCublasLtGemm(void* workspace, const GemmScratch& scratch);

}  // namespace shoal::cuda
