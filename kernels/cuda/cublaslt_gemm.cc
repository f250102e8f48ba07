// Tested by: tests/kernels/cuda/cublaslt_test.cc
//
// cuBLASLt's matrices lie column by column. Rows of w and of x are its columns, k of them one below the other, so
//   D [n, tokens] = A^T B,   A = w as [k, n],   B = x as [k, tokens],   and D's columns are the rows of y.
// What a size needs is made once and kept: at most one plan for each matrix of the model and each number of tokens that
// a step can have, some 200 bytes each.
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
  CublasLtGemm(const CublasLt& lt, void* workspace) : lt_(lt), workspace_(workspace) {}
  ~CublasLtGemm() override;

  absl::Status Open();
  absl::StatusOr<bool> Multiply(DeviceStream stream, const GemmProduct& p) override;
  void SetRecording(bool recording) override { recording_ = recording; }

 private:
  // Of a product: f32_out, n, k, y_stride, and tokens, or a bucket of them.
  using Key = std::tuple<bool, int64_t, int64_t, int64_t, int64_t>;
  struct Plan {
    std::unique_ptr<Layouts> layouts;
    bool found = false;  // or the library has no algorithm
    cublasLtMatmulAlgo_t algo = {};
  };

  absl::Status Check(cublasStatus_t status, const char* what) const;
  absl::Status MakeLayouts(const GemmProduct& p, int64_t tokens, Layouts* out) const;
  absl::Status Ask(const Layouts& layouts, Plan* plan) const;
  absl::StatusOr<const Plan*> PlanOfBucket(const GemmProduct& p);
  absl::StatusOr<const Plan*> PlanOf(const GemmProduct& p);

  const CublasLt lt_;
  void* const workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  bool recording_ = false;
  std::map<Key, Plan> buckets_, plans_;
};

CublasLtGemm::~CublasLtGemm() {
  buckets_.clear();
  plans_.clear();
  if (preference_ != nullptr) (void)lt_.preference_destroy(preference_);
  if (product_ != nullptr) (void)lt_.desc_destroy(product_);
  if (handle_ != nullptr) (void)lt_.destroy(handle_);
}

absl::Status CublasLtGemm::Check(cublasStatus_t status, const char* what) const {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", lt_.status_string(status)));
}

absl::Status CublasLtGemm::Open() {
  SHOAL_RETURN_IF_ERROR(Check(lt_.create(&handle_), "cublasLtCreate"));
  SHOAL_RETURN_IF_ERROR(Check(lt_.desc_create(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
  const int32_t transposed = CUBLAS_OP_T;
  SHOAL_RETURN_IF_ERROR(
      Check(lt_.desc_set(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "transpose A"));
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
  SHOAL_RETURN_IF_ERROR(make(&out->a, CUDA_R_16BF, p.k, p.n, p.k));
  SHOAL_RETURN_IF_ERROR(make(&out->b, CUDA_R_16BF, p.k, tokens, p.k));
  return make(&out->d, p.f32_out ? CUDA_R_32F : CUDA_R_16BF, p.n, tokens, p.y_stride);
}

absl::Status CublasLtGemm::Ask(const Layouts& l, Plan* plan) const {
  cublasLtMatmulHeuristicResult_t best = {};
  int count = 0;
  const cublasStatus_t asked =
      lt_.heuristic(handle_, product_, l.a, l.b, l.d, l.d, preference_, /*requestedAlgoCount=*/1, &best, &count);
  if (asked == CUBLAS_STATUS_NOT_SUPPORTED) return absl::OkStatus();
  SHOAL_RETURN_IF_ERROR(Check(asked, "cublasLtMatmulAlgoGetHeuristic"));
  plan->found = count > 0 && best.state == CUBLAS_STATUS_SUCCESS && best.workspaceSize <= kGemmWorkspaceBytes;
  plan->algo = best.algo;
  return absl::OkStatus();
}

absl::StatusOr<const CublasLtGemm::Plan*> CublasLtGemm::PlanOfBucket(const GemmProduct& p) {
  const int64_t tokens = TokenBucket(p.tokens);
  const Key key = {p.f32_out, p.n, p.k, p.y_stride, tokens};
  if (const auto known = buckets_.find(key); known != buckets_.end()) return &known->second;
  Plan plan;
  Layouts layouts(lt_);  // needed for the question alone
  SHOAL_RETURN_IF_ERROR(MakeLayouts(p, tokens, &layouts));
  SHOAL_RETURN_IF_ERROR(Ask(layouts, &plan));
  return &buckets_.emplace(key, std::move(plan)).first->second;
}

// Null: there is none yet, and none may be made now.
absl::StatusOr<const CublasLtGemm::Plan*> CublasLtGemm::PlanOf(const GemmProduct& p) {
  const Key key = {p.f32_out, p.n, p.k, p.y_stride, p.tokens};
  if (const auto known = plans_.find(key); known != plans_.end()) return &known->second;
  if (recording_) return nullptr;
  SHOAL_ASSIGN_OR_RETURN(const Plan* const bucket, PlanOfBucket(p));
  Plan plan = {std::make_unique<Layouts>(lt_), bucket->found, bucket->algo};
  SHOAL_RETURN_IF_ERROR(MakeLayouts(p, p.tokens, plan.layouts.get()));
  if (plan.found) {
    // What is right for the bucket's tokens may not do for these.
    const Layouts& l = *plan.layouts;
    cublasLtMatmulHeuristicResult_t checked = {};
    const bool fits = lt_.check(handle_, product_, l.a, l.b, l.d, l.d, &plan.algo, &checked) == CUBLAS_STATUS_SUCCESS &&
                      checked.workspaceSize <= kGemmWorkspaceBytes;
    if (!fits) SHOAL_RETURN_IF_ERROR(Ask(l, &plan));
  }
  return &plans_.emplace(key, std::move(plan)).first->second;
}

absl::StatusOr<bool> CublasLtGemm::Multiply(DeviceStream stream, const GemmProduct& p) {
  SHOAL_ASSIGN_OR_RETURN(const Plan* const plan, PlanOf(p));
  if (plan == nullptr || !plan->found) return false;
  const Layouts& l = *plan->layouts;
  const float one = 1, zero = 0;
  SHOAL_RETURN_IF_ERROR(Check(lt_.matmul(handle_, product_, &one, p.w, l.a, p.x, l.b, &zero, p.y, l.d, p.y, l.d,
                                         &plan->algo, workspace_, kGemmWorkspaceBytes, stream),
                              "cublasLtMatmul"));
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LibraryGemm>> OpenCublasLtGemm(void* workspace) {
  SHOAL_ASSIGN_OR_RETURN(const CublasLt lt, OpenCublasLt());
  auto gemm = std::make_unique<CublasLtGemm>(lt, workspace);
  SHOAL_RETURN_IF_ERROR(gemm->Open());
  return gemm;
}

}  // namespace shoal::cuda
