// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated: on a cuBLASLt that the host plays)
#include "tests/gpu/library_product.h"

#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/cublaslt_library.h"

namespace shoal::gpu {
namespace {

// Of fp8, which the backend never asks for: e4m3 by e4m3 to bf16, A transposed and B not, which is all that Hopper has
// (cuBLAS, cublasLtMatmul: 8-bit floating point). Factors are not set: they are 1.
class Fp8Products {
 public:
  Fp8Products(const cuda::CublasLt& lt, void* workspace) : lt_(lt), workspace_(workspace) {}
  ~Fp8Products() {
    for (auto& [size, plan] : plans_) {
      for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.d}) {
        if (layout != nullptr) (void)lt_.layout_destroy(layout);
      }
    }
    if (preference_ != nullptr) (void)lt_.preference_destroy(preference_);
    if (product_ != nullptr) (void)lt_.desc_destroy(product_);
    if (handle_ != nullptr) (void)lt_.destroy(handle_);
  }
  Fp8Products(const Fp8Products&) = delete;
  Fp8Products& operator=(const Fp8Products&) = delete;

  absl::Status Open() {
    SHOAL_RETURN_IF_ERROR(Check(lt_.create(&handle_), "cublasLtCreate"));
    SHOAL_RETURN_IF_ERROR(
        Check(lt_.desc_create(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
    const int32_t transposed = CUBLAS_OP_T;
    SHOAL_RETURN_IF_ERROR(
        Check(lt_.desc_set(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "transpose A"));
    SHOAL_RETURN_IF_ERROR(Check(lt_.preference_create(&preference_), "cublasLtMatmulPreferenceCreate"));
    const uint64_t bytes = cuda::kGemmWorkspaceBytes;
    return Check(lt_.preference_set(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
                 "cublasLtMatmulPreferenceSetAttribute");
  }

  absl::StatusOr<bool> Multiply(cuda::DeviceStream stream, const LibraryProduct::Product& p) {
    SHOAL_ASSIGN_OR_RETURN(const Plan* const plan, PlanOf(p));
    if (!plan->found) return false;
    const float one = 1, zero = 0;
    SHOAL_RETURN_IF_ERROR(Check(lt_.matmul(handle_, product_, &one, p.w, plan->a, p.x, plan->b, &zero, p.y, plan->d,
                                           p.y, plan->d, &plan->algo, workspace_, cuda::kGemmWorkspaceBytes, stream),
                                "cublasLtMatmul"));
    return true;
  }

 private:
  struct Plan {
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    bool found = false;
    cublasLtMatmulAlgo_t algo = {};
  };

  absl::Status Check(cublasStatus_t status, const char* what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(what, ": ", lt_.status_string(status)));
  }
  absl::Status Make(cublasLtMatrixLayout_t* layout, cudaDataType_t type, int64_t rows, int64_t columns) const {
    return Check(lt_.layout_create(layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), rows),
                 "cublasLtMatrixLayoutCreate");
  }
  absl::StatusOr<const Plan*> PlanOf(const LibraryProduct::Product& p) {
    const auto [place, is_new] = plans_.try_emplace({p.tokens, p.n, p.k});
    Plan& plan = place->second;
    if (!is_new) return &plan;
    SHOAL_RETURN_IF_ERROR(Make(&plan.a, CUDA_R_8F_E4M3, p.k, p.n));
    SHOAL_RETURN_IF_ERROR(Make(&plan.b, CUDA_R_8F_E4M3, p.k, p.tokens));
    SHOAL_RETURN_IF_ERROR(Make(&plan.d, CUDA_R_16BF, p.n, p.tokens));
    cublasLtMatmulHeuristicResult_t best = {};
    int count = 0;
    const cublasStatus_t asked =
        lt_.heuristic(handle_, product_, plan.a, plan.b, plan.d, plan.d, preference_, 1, &best, &count);
    if (asked == CUBLAS_STATUS_NOT_SUPPORTED) return &plan;
    SHOAL_RETURN_IF_ERROR(Check(asked, "cublasLtMatmulAlgoGetHeuristic"));
    plan.found = count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    plan.algo = best.algo;
    return &plan;
  }

  const cuda::CublasLt lt_;
  void* const workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Plan> plans_;
};

class CublasLtProduct final : public LibraryProduct {
 public:
  CublasLtProduct(cuda::DeviceStream stream, device::Memory workspace)
      : stream_(stream), workspace_(std::move(workspace)) {}

  absl::Status Open() {
    SHOAL_ASSIGN_OR_RETURN(const cuda::CublasLt lt, cuda::OpenCublasLt());
    SHOAL_ASSIGN_OR_RETURN(bf16_, cuda::OpenCublasLtGemm(workspace_.data(), cuda::GemmScratch()));
    fp8_ = std::make_unique<Fp8Products>(lt, workspace_.data());
    return fp8_->Open();
  }
  absl::StatusOr<bool> Multiply(const Product& p) override {
    if (p.type == DType::kF8E4M3) return fp8_->Multiply(stream_, p);
    const cuda::GemmProduct product = {.x = p.x,
                                       .x_scale = nullptr,
                                       .w = p.w,
                                       .type = DType::kBF16,
                                       .w_scale = nullptr,
                                       .y = p.y,
                                       .f32_out = false,
                                       .y_stride = p.n,
                                       .tokens = p.tokens,
                                       .n = p.n,
                                       .k = p.k};
    SHOAL_ASSIGN_OR_RETURN(const bool has, bf16_->Has(product));
    if (!has) return false;
    return bf16_->Multiply(stream_, product);
  }

 private:
  const cuda::DeviceStream stream_;
  const device::Memory workspace_;
  std::unique_ptr<cuda::LibraryGemm> bf16_;
  std::unique_ptr<Fp8Products> fp8_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LibraryProduct>> LibraryProduct::Open(device::Device* device, void* native_stream) {
  SHOAL_ASSIGN_OR_RETURN(device::Memory workspace, device->Allocate(cuda::kGemmWorkspaceBytes));
  auto product =
      std::make_unique<CublasLtProduct>(static_cast<cuda::DeviceStream>(native_stream), std::move(workspace));
  SHOAL_RETURN_IF_ERROR(product->Open());
  return product;
}

}  // namespace shoal::gpu
