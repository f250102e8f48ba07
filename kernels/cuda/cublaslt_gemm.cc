// Tested by: tests/kernels/cuda/cublaslt_test.cc
//
// cuBLASLt's matrices lie column by column. Rows of w and of x are its columns, k of them one below the other, so
//   D [n, tokens] = A^T B,   A = w as [k, n],   B = x as [k, tokens],   and D's columns are the rows of y.
// That is the one order in which it multiplies e4m3 on Ada and Hopper. Factors for each row of w and of x are its
// "outer vectors" (cuBLAS 12.9 and later; 13 has them for compute capability 9.0, and says no for others). Fast
// accumulation stays off: sums are carried into f32 as they grow. What a size needs is made once and kept: at most one
// plan for each matrix of the model and each number of tokens that a step can have, some 200 bytes each.
#include "kernels/cuda/cublaslt_gemm.h"

#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/cublaslt_library.h"

namespace shoal::cuda {
namespace {

// The three layouts of a product. They are cuBLASLt's, and go with this.
class Layouts {
 public:
  explicit Layouts(const CublasLt& lt) : lt_(lt) {}
  ~Layouts() {
    for (cublasLtMatrixLayout_t layout : {a, b, d}) {
      if (layout != nullptr) (void)lt_.layout_destroy(layout);
    }
  }
  Layouts(const Layouts&) = delete;
  Layouts& operator=(const Layouts&) = delete;

  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;

 private:
  const CublasLt& lt_;
};

class CublasLtGemm final : public LibraryGemm {
 public:
  CublasLtGemm(const CublasLt& lt, void* workspace, const GemmScratch& scratch)
      : LibraryGemm(scratch), lt_(lt), workspace_(workspace) {}
  ~CublasLtGemm() override;

  absl::Status Open();
  absl::StatusOr<bool> Has(const GemmProduct& p) override;
  absl::StatusOr<bool> Multiply(DeviceStream stream, const GemmProduct& p) override;
  void SetRecording(bool recording) override { recording_ = recording; }

 private:
  // Of a product: type, f32_out, n, k, y_stride, and tokens, or a bucket of them.
  using Key = std::tuple<DType, bool, int64_t, int64_t, int64_t, int64_t>;
  struct Plan {
    std::unique_ptr<Layouts> layouts;
    bool found = false;  // or the library has no algorithm
    cublasLtMatmulAlgo_t algo = {};
  };

  absl::Status Check(cublasStatus_t status, const char* what) const;
  template <typename T>
  absl::Status Set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const T& value) const;
  absl::Status MakeProducts();
  absl::StatusOr<cublasLtMatmulDesc_t> ProductFor(const GemmProduct& p) const;
  absl::Status MakeLayouts(const GemmProduct& p, int64_t tokens, Layouts* out) const;
  absl::Status Ask(cublasLtMatmulDesc_t product, const Layouts& layouts, Plan* plan) const;
  absl::StatusOr<const Plan*> PlanOfBucket(cublasLtMatmulDesc_t product, const GemmProduct& p);
  absl::StatusOr<Plan*> PlanOf(const GemmProduct& p);

  const CublasLt lt_;
  void* const workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr, scaled_ = nullptr;  // of bf16, of e4m3
  cublasLtMatmulPreference_t preference_ = nullptr;
  bool recording_ = false;
  std::map<Key, Plan> buckets_, plans_;
};

CublasLtGemm::~CublasLtGemm() {
  buckets_.clear();
  plans_.clear();
  if (preference_ != nullptr) (void)lt_.preference_destroy(preference_);
  for (cublasLtMatmulDesc_t product : {product_, scaled_}) {
    if (product != nullptr) (void)lt_.desc_destroy(product);
  }
  if (handle_ != nullptr) (void)lt_.destroy(handle_);
}

absl::Status CublasLtGemm::Check(cublasStatus_t status, const char* what) const {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", lt_.status_string(status)));
}

template <typename T>
absl::Status CublasLtGemm::Set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                               const T& value) const {
  return Check(lt_.desc_set(desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

absl::Status CublasLtGemm::MakeProducts() {
  for (cublasLtMatmulDesc_t* product : {&product_, &scaled_}) {
    SHOAL_RETURN_IF_ERROR(Check(lt_.desc_create(product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
    SHOAL_RETURN_IF_ERROR(Set(*product, CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_T}));
  }
  constexpr int32_t kForEachRow = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  SHOAL_RETURN_IF_ERROR(Set(scaled_, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, kForEachRow));
  return Set(scaled_, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, kForEachRow);
}

// Factors belong to the product, not to the call: those of `p` from here on.
absl::StatusOr<cublasLtMatmulDesc_t> CublasLtGemm::ProductFor(const GemmProduct& p) const {
  if (p.type != DType::kF8E4M3) return product_;
  SHOAL_RETURN_IF_ERROR(Set(scaled_, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scale));
  SHOAL_RETURN_IF_ERROR(Set(scaled_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scale));
  return scaled_;
}

absl::Status CublasLtGemm::Open() {
  SHOAL_RETURN_IF_ERROR(Check(lt_.create(&handle_), "cublasLtCreate"));
  SHOAL_RETURN_IF_ERROR(MakeProducts());
  SHOAL_RETURN_IF_ERROR(Check(lt_.preference_create(&preference_), "cublasLtMatmulPreferenceCreate"));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    return Check(lt_.preference_set(preference_, attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  };
  SHOAL_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kGemmWorkspaceBytes}));
  // Pieces of k are added in f32, not after they were rounded to the type of y.
  SHOAL_RETURN_IF_ERROR(
      prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    SHOAL_RETURN_IF_ERROR(prefer(attribute, uint32_t{kLibraryAlignment}));  // 256 unless told
  }
  return absl::OkStatus();
}

absl::Status CublasLtGemm::MakeLayouts(const GemmProduct& p, int64_t tokens, Layouts* out) const {
  const auto make = [&](cublasLtMatrixLayout_t* layout, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld) {
    return Check(lt_.layout_create(layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld),
                 "cublasLtMatrixLayoutCreate");
  };
  const cudaDataType_t type = p.type == DType::kF8E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  SHOAL_RETURN_IF_ERROR(make(&out->a, type, p.k, p.n, p.k));
  SHOAL_RETURN_IF_ERROR(make(&out->b, type, p.k, tokens, p.k));
  return make(&out->d, p.f32_out ? CUDA_R_32F : CUDA_R_16BF, p.n, tokens, p.y_stride);
}

// What cuBLASLt says of a product that it does not multiply on this device: of types and factors that it knows nothing
// of, that they are invalid.
bool IsNo(bool scaled, cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_SUPPORTED || (scaled && status == CUBLAS_STATUS_INVALID_VALUE);
}

absl::Status CublasLtGemm::Ask(cublasLtMatmulDesc_t product, const Layouts& l, Plan* plan) const {
  plan->found = false;
  cublasLtMatmulHeuristicResult_t best = {};
  int count = 0;
  const cublasStatus_t asked =
      lt_.heuristic(handle_, product, l.a, l.b, l.d, l.d, preference_, /*requestedAlgoCount=*/1, &best, &count);
  if (IsNo(product == scaled_, asked)) return absl::OkStatus();
  SHOAL_RETURN_IF_ERROR(Check(asked, "cublasLtMatmulAlgoGetHeuristic"));
  plan->found = count > 0 && best.state == CUBLAS_STATUS_SUCCESS && best.workspaceSize <= kGemmWorkspaceBytes;
  plan->algo = best.algo;
  return absl::OkStatus();
}

absl::StatusOr<const CublasLtGemm::Plan*> CublasLtGemm::PlanOfBucket(cublasLtMatmulDesc_t product,
                                                                     const GemmProduct& p) {
  const int64_t tokens = TokenBucket(p.tokens);
  const Key key = {p.type, p.f32_out, p.n, p.k, p.y_stride, tokens};
  if (const auto known = buckets_.find(key); known != buckets_.end()) return &known->second;
  Plan plan;
  Layouts layouts(lt_);  // needed for the question alone
  SHOAL_RETURN_IF_ERROR(MakeLayouts(p, tokens, &layouts));
  SHOAL_RETURN_IF_ERROR(Ask(product, layouts, &plan));
  return &buckets_.emplace(key, std::move(plan)).first->second;
}

// Null: there is none yet, and none may be made now.
absl::StatusOr<CublasLtGemm::Plan*> CublasLtGemm::PlanOf(const GemmProduct& p) {
  const Key key = {p.type, p.f32_out, p.n, p.k, p.y_stride, p.tokens};
  if (const auto known = plans_.find(key); known != plans_.end()) return &known->second;
  if (recording_) return nullptr;
  SHOAL_ASSIGN_OR_RETURN(cublasLtMatmulDesc_t const product, ProductFor(p));
  SHOAL_ASSIGN_OR_RETURN(const Plan* const bucket, PlanOfBucket(product, p));
  Plan plan = {std::make_unique<Layouts>(lt_), bucket->found, bucket->algo};
  SHOAL_RETURN_IF_ERROR(MakeLayouts(p, p.tokens, plan.layouts.get()));
  if (plan.found) {
    // What is right for the bucket's tokens may not do for these.
    const Layouts& l = *plan.layouts;
    cublasLtMatmulHeuristicResult_t checked = {};
    const bool fits = lt_.check(handle_, product, l.a, l.b, l.d, l.d, &plan.algo, &checked) == CUBLAS_STATUS_SUCCESS &&
                      checked.workspaceSize <= kGemmWorkspaceBytes;
    if (!fits) SHOAL_RETURN_IF_ERROR(Ask(product, l, &plan));
  }
  return &plans_.emplace(key, std::move(plan)).first->second;
}

absl::StatusOr<bool> CublasLtGemm::Has(const GemmProduct& p) {
  SHOAL_ASSIGN_OR_RETURN(const Plan* const plan, PlanOf(p));
  return plan != nullptr && plan->found;
}

absl::StatusOr<bool> CublasLtGemm::Multiply(DeviceStream stream, const GemmProduct& p) {
  SHOAL_ASSIGN_OR_RETURN(Plan* const plan, PlanOf(p));
  if (plan == nullptr || !plan->found) return false;
  SHOAL_ASSIGN_OR_RETURN(cublasLtMatmulDesc_t const product, ProductFor(p));
  const Layouts& l = *plan->layouts;
  const float one = 1, before = p.adds ? 1 : 0;  // y is C and D
  const cublasStatus_t status = lt_.matmul(handle_, product, &one, p.w, l.a, p.x, l.b, &before, p.y, l.d, p.y, l.d,
                                           &plan->algo, workspace_, kGemmWorkspaceBytes, stream);
  // Factors that do not go with types are refused here at the latest (cublasLt.h,
  // CUBLASLT_MATMUL_DESC_A_SCALE_POINTER).
  plan->found = !IsNo(product == scaled_, status);
  if (!plan->found) return false;
  SHOAL_RETURN_IF_ERROR(Check(status, "cublasLtMatmul"));
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LibraryGemm>> OpenCublasLtGemm(void* workspace, const GemmScratch& scratch) {
  SHOAL_ASSIGN_OR_RETURN(const CublasLt lt, OpenCublasLt());
  auto gemm = std::make_unique<CublasLtGemm>(lt, workspace, scratch);
  SHOAL_RETURN_IF_ERROR(gemm->Open());
  return gemm;
}

}  // namespace shoal::cuda
