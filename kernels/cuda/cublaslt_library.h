// Opens cuBLASLt, which may be installed or not. Part of the CUDA plug-in. Any thread.
#pragma once

#include <cublasLt.h>

#include <string>

#include "absl/status/statusor.h"

namespace shoal::cuda {

inline constexpr char kCublasLtFile[] = "libcublasLt.so.13";

// As much of cublasLt.h as is called.
struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check;
  decltype(&cublasLtMatmul) matmul;
};

// Looked for along the RUNPATH of the library that this is part of, then where the system has its libraries. It stays
// loaded. FailedPrecondition, with what helps: it is not there, or lacks a function.
absl::StatusOr<CublasLt> OpenCublasLt(const std::string& file = kCublasLtFile);

}  // namespace shoal::cuda
