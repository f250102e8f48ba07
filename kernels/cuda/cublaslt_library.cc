// Tested by: tests/kernels/cuda/cublaslt_test.cc
#include "kernels/cuda/cublaslt_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace shoal::cuda {
namespace {

constexpr char kHelp[] =
    "--numerics fast needs cuBLAS of CUDA 13: install it (libcublas-13-0, or the wheel nvidia-cublas), or put "
    "libcublasLt.so.13 beside libshoal_cuda.so, or serve with --numerics invariant";

class Finder {
 public:
  Finder(void* handle, const std::string& file) : handle_(handle), file_(file) {}
  template <typename Function>
  void Find(const char* name, Function* function) {
    void* const found = ::dlsym(handle_, name);
    if (found == nullptr && status_.ok()) {
      status_ = absl::FailedPreconditionError(absl::StrCat(file_, " has no ", name, ": ", kHelp));
    }
    *function = reinterpret_cast<Function>(found);
  }
  const absl::Status& status() const { return status_; }

 private:
  void* const handle_;
  const std::string& file_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<CublasLt> OpenCublasLt(const std::string& file) {
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cuBLASLt cannot be loaded: ", ::dlerror(), ": ", kHelp));
  }
  CublasLt f = {};
  Finder finder(handle, file);
  finder.Find("cublasLtCreate", &f.create);
  finder.Find("cublasLtDestroy", &f.destroy);
  finder.Find("cublasLtGetStatusString", &f.status_string);
  finder.Find("cublasLtMatmulDescCreate", &f.desc_create);
  finder.Find("cublasLtMatmulDescDestroy", &f.desc_destroy);
  finder.Find("cublasLtMatmulDescSetAttribute", &f.desc_set);
  finder.Find("cublasLtMatrixLayoutCreate", &f.layout_create);
  finder.Find("cublasLtMatrixLayoutDestroy", &f.layout_destroy);
  finder.Find("cublasLtMatmulPreferenceCreate", &f.preference_create);
  finder.Find("cublasLtMatmulPreferenceDestroy", &f.preference_destroy);
  finder.Find("cublasLtMatmulPreferenceSetAttribute", &f.preference_set);
  finder.Find("cublasLtMatmulAlgoGetHeuristic", &f.heuristic);
  finder.Find("cublasLtMatmulAlgoCheck", &f.check);
  finder.Find("cublasLtMatmul", &f.matmul);
  if (finder.status().ok()) return f;
  ::dlclose(handle);
  return finder.status();
}

}  // namespace shoal::cuda
