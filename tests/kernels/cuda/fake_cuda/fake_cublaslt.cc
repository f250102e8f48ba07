// cuBLASLt on the emulated device's queue. Matrices are what their layouts say, column by column: rows taken for
// columns would show. A product is refused where cuBLASLt's own rules would refuse it.
#include "tests/kernels/cuda/fake_cuda/fake_cublaslt.h"

#include <cmath>
#include <cstring>
#include <map>

#include "common/base/dtype.h"
#include "kernels/cuda/emulated/queue.h"
#include "tests/kernels/cuda/fake_cuda/cublasLt.h"

using shoal::BF16ToF32;
using shoal::F32ToBF16;
using shoal::F8E4M3ToF32;
using shoal::cuda::emulated::Queue;

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  bool a_transposed = false;
  int32_t a_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  const float* a_scale = nullptr;
  const float* b_scale = nullptr;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t ld;
  size_t At(uint64_t row, uint64_t col) const { return col * static_cast<uint64_t>(ld) + row; }
};
struct cublasLtMatmulPreferenceOpaque_t {
  std::map<int, uint64_t> values = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0}};
};

namespace shoal::cuda::fake {

CublasLtState& cublaslt() {
  static CublasLtState state;
  return state;
}

}  // namespace shoal::cuda::fake

namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;
constexpr size_t kNeeded = 4096;  // of the workspace
constexpr uint64_t kAlignment = 16;

shoal::cuda::fake::CublasLtState& State() { return shoal::cuda::fake::cublaslt(); }

template <typename T>
cublasStatus_t Made(T** out, T* made) {
  *out = made;
  ++State().alive;
  return CUBLAS_STATUS_SUCCESS;
}
template <typename T>
cublasStatus_t Gone(T* made) {
  delete made;
  --State().alive;
  return CUBLAS_STATUS_SUCCESS;
}

// D [m, n] = op(A) B, of types that are served.
bool Sound(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b, const Layout& d) {
  const uint64_t m = desc.a_transposed ? a.cols : a.rows, k = desc.a_transposed ? a.rows : a.cols;
  const auto fits = [](const Layout& l) { return l.ld >= static_cast<int64_t>(l.rows); };
  return d.rows == m && d.cols == b.cols && b.rows == k && fits(a) && fits(b) && fits(d) && a.type == b.type &&
         (a.type == CUDA_R_16BF || a.type == CUDA_R_8F_E4M3) && (d.type == CUDA_R_16BF || d.type == CUDA_R_32F);
}

// e4m3: as Hopper multiplies it with a factor for each row and column, and nothing else; bf16: without factors.
bool Served(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& d) {
  constexpr int32_t kOuter = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  if (a.type == CUDA_R_16BF)
    return desc.a_scale == nullptr && desc.b_scale == nullptr && desc.a_mode + desc.b_mode == 0;
  return State().knows_fp8 && desc.a_transposed && desc.a_mode == kOuter && desc.b_mode == kOuter &&
         desc.a_scale != nullptr && desc.b_scale != nullptr && a.rows % kAlignment == 0 && d.rows % kAlignment == 0;
}

bool Aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kAlignment == 0; }

// What an algorithm was chosen for, so that `picky` can tell.
cublasLtMatmulAlgo_t AlgoFor(const Layout& a, const Layout& b, const Layout& d) {
  return {{1, a.rows, a.cols, b.cols, static_cast<uint64_t>(d.ld), static_cast<uint64_t>(d.type),
           static_cast<uint64_t>(a.type)}};
}
bool Does(const cublasLtMatmulAlgo_t& algo, const Layout& a, const Layout& b, const Layout& d) {
  cublasLtMatmulAlgo_t wanted = AlgoFor(a, b, d);
  if (!State().picky) wanted.data[3] = algo.data[3];
  return std::memcmp(&wanted, &algo, sizeof algo) == 0;
}

struct Product {
  cublasLtMatmulDescOpaque_t desc;
  float alpha, beta;
  const void* a;
  const void* b;
  void* d;
  Layout a_layout, b_layout, d_layout;
};

float Element(const void* matrix, const Layout& l, uint64_t row, uint64_t col) {
  if (l.type == CUDA_R_8F_E4M3) return F8E4M3ToF32(static_cast<const uint8_t*>(matrix)[l.At(row, col)]);
  return BF16ToF32(static_cast<const uint16_t*>(matrix)[l.At(row, col)]);
}

void Run(const Product& p) {
  for (uint64_t col = 0; col < p.d_layout.cols; ++col) {
    for (uint64_t row = 0; row < p.d_layout.rows; ++row) {
      float sum = 0;
      for (uint64_t i = 0; i < p.b_layout.rows; ++i) {
        const float a = p.desc.a_transposed ? Element(p.a, p.a_layout, i, row) : Element(p.a, p.a_layout, row, i);
        sum = std::fma(a, Element(p.b, p.b_layout, i, col), sum);
      }
      if (p.desc.a_scale != nullptr) sum = sum * p.desc.a_scale[row] * p.desc.b_scale[col];
      const size_t to = p.d_layout.At(row, col);
      sum *= p.alpha;
      if (p.d_layout.type == CUDA_R_32F) {
        float& d = static_cast<float*>(p.d)[to];
        d = p.beta == 0 ? sum : sum + p.beta * d;
      } else {
        uint16_t& d = static_cast<uint16_t*>(p.d)[to];
        d = F32ToBF16(p.beta == 0 ? sum : sum + p.beta * BF16ToF32(d));
      }
    }
  }
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return Made(handle, new cublasLtContext); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return Gone(handle); }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INTERNAL_ERROR ? "the library failed" : "another status";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  return Made(desc, new cublasLtMatmulDescOpaque_t);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return Gone(desc); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  const auto read = [&](auto* to) {
    if (bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  int32_t operation = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      if (const cublasStatus_t bad = read(&operation); bad != CUBLAS_STATUS_SUCCESS) return bad;
      desc->a_transposed = operation == CUBLAS_OP_T;
      return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return read(&desc->a_mode);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return read(&desc->b_mode);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return read(&desc->a_scale);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return read(&desc->b_scale);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  return Made(layout, new Layout{type, rows, cols, ld});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return Gone(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return Made(preference, new cublasLtMatmulPreferenceOpaque_t);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return Gone(preference); }
// uint64_t of bytes of workspace, uint32_t of all others.
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  if (bytes != (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4)) return CUBLAS_STATUS_INVALID_VALUE;
  uint64_t wide = 0;
  std::memcpy(&wide, value, bytes);  // little-endian
  preference->values[attribute] = wide;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  ++State().asked;
  *count = 0;
  if (State().failing) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (handle == nullptr || requested < 1 || c->ld != d->ld || !Sound(*desc, *a, *b, *d)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // What needs more alignment than is promised is left out: all that there is needs 16 bytes.
  for (const int of : {5, 6, 7, 8}) {
    if (preference->values[of] != kAlignment) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (preference->values[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES] < kNeeded || State().helpless ||
      !Served(*desc, *a, *d)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  results[0] = {.algo = AlgoFor(*a, *b, *d),
                .workspaceSize = kNeeded,
                .state = CUBLAS_STATUS_SUCCESS,
                .wavesCount = 1,
                .reserved = {}};
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  ++State().checked;
  if (!Sound(*desc, *a, *b, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!Does(*algo, *a, *b, *d) || !Served(*desc, *a, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = kNeeded;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  ++State().multiplied;
  if (State().failing) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (!Sound(*desc, *a_layout, *b_layout, *d_layout) || !Does(*algo, *a_layout, *b_layout, *d_layout) ||
      workspace == nullptr || workspace_bytes < kNeeded || c != d || c_layout->ld != d_layout->ld || !Aligned(a) ||
      !Aligned(b) || !Aligned(d) || !Served(*desc, *a_layout, *d_layout) ||
      (a_layout->type == CUDA_R_8F_E4M3 && State().refuses_fp8)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Product product = {
      *desc,    *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, d, *a_layout, *b_layout,
      *d_layout};
  // The queue that plays a stream (fake_cuda.cc), or an emulated device's own; none: at once.
  auto* const queue = reinterpret_cast<Queue*>(stream);
  if (queue == nullptr) {
    Run(product);
    return CUBLAS_STATUS_SUCCESS;
  }
  const absl::Status enqueued = queue->Enqueue("cublasLtMatmul", [product] { return Run(product), absl::OkStatus(); });
  return enqueued.ok() ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INTERNAL_ERROR;
}
