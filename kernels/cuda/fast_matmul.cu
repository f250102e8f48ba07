// Tested by: tests/kernels/cuda/cublaslt_test.cc
#include <algorithm>

#include "common/base/status_macros.h"
#include "kernels/cuda/fast_matmul.h"
#include "kernels/cuda/lang.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/place_bias.h"
#include "kernels/cuda/quantise_rows.h"

namespace shoal::cuda {
namespace {

using Parts = bool[ops::kMaxMatmulParts];

GemmProduct ProductOf(const ops::MatmulArgs& a, int part) {
  const ops::MatmulPart& p = a.parts[part];
  return {.x = a.x.data(),
          .x_scale = nullptr,
          .w = p.w.data,
          .type = p.w.dtype,
          .w_scale = p.w.row_scale,
          .y = p.y.data(),
          .f32_out = a.f32_out,
          .y_stride = p.y_stride,
          .tokens = a.tokens,
          .n = p.w.n,
          .k = a.k,
          .adds = p.w.bias != nullptr};
}

// A product that the library Has; the library adds it to its bias, which is put where it goes. (As an epilogue of
// cuBLASLt's it would have to be of y's type.) A bias in bf16 is added as it is, another rounded to y's type before.
absl::StatusOr<bool> Multiply(QueueStream& stream, const GemmProduct& p, const float* bias) {
  if (bias != nullptr) {
    SHOAL_RETURN_IF_ERROR(Enqueue(stream.queue(), PlaceBias{.bias = bias,
                                                            .y = p.y,
                                                            .f32_out = p.f32_out,
                                                            .y_stride = p.y_stride,
                                                            .tokens = static_cast<int>(p.tokens),
                                                            .n = static_cast<int>(p.n)}));
  }
  return stream.gemm()->Multiply(stream.queue(), p);
}

// Tokens [begin, begin + count) of a product, whose x is quantised in the scratch.
GemmProduct QuantisedPiece(GemmProduct p, const GemmScratch& scratch, int64_t begin, int64_t count) {
  p.x = scratch.codes;
  p.x_scale = scratch.scales;
  p.y = static_cast<std::byte*>(p.y) + begin * p.y_stride * (p.f32_out ? 4 : 2);
  p.tokens = count;
  return p;
}

// Multiplies what the library has of the parts in `wanted`, in e4m3; the others are taken out of it, and what was
// written for them is to be written again.
absl::Status MultiplyQuantised(QueueStream& stream, const ops::MatmulArgs& a, Parts& wanted) {
  LibraryGemm& gemm = *stream.gemm();
  const GemmScratch& scratch = gemm.scratch();
  const int64_t at_once = TokensAtOnce(scratch, a.k);
  for (int64_t begin = 0; begin < a.tokens; begin += at_once) {
    const int64_t count = std::min(at_once, a.tokens - begin);
    bool any = false;
    for (int p = 0; p < a.part_count; ++p) {
      if (!wanted[p]) continue;
      SHOAL_ASSIGN_OR_RETURN(wanted[p], gemm.Has(QuantisedPiece(ProductOf(a, p), scratch, begin, count)));
      any |= wanted[p];
    }
    if (!any) return absl::OkStatus();
    SHOAL_RETURN_IF_ERROR(Enqueue(stream.queue(), QuantiseRows{.x = a.x.as<bf16>() + begin * a.k,
                                                               .codes = scratch.codes,
                                                               .scale = scratch.scales,
                                                               .tokens = static_cast<int>(count),
                                                               .dim = a.k}));
    for (int p = 0; p < a.part_count; ++p) {
      if (!wanted[p]) continue;
      SHOAL_ASSIGN_OR_RETURN(
          wanted[p], Multiply(stream, QuantisedPiece(ProductOf(a, p), scratch, begin, count), a.parts[p].w.bias));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FastMatmul(QueueStream& stream, const ops::MatmulArgs& a, ops::MatmulFn own) {
  LibraryGemm* const gemm = stream.gemm();
  if (gemm == nullptr) return own(stream, a);
  Parts plain = {}, quantised = {};
  for (int p = 0; p < a.part_count; ++p) {
    const GemmProduct product = ProductOf(a, p);
    if (!LibraryTakes(product, gemm->scratch())) continue;
    quantised[p] = product.type == DType::kF8E4M3;
    if (quantised[p]) continue;
    SHOAL_ASSIGN_OR_RETURN(plain[p], gemm->Has(product));
    if (!plain[p]) continue;
    SHOAL_ASSIGN_OR_RETURN(plain[p], Multiply(stream, product, a.parts[p].w.bias));
  }
  if (std::find(quantised, quantised + a.part_count, true) != quantised + a.part_count) {
    SHOAL_RETURN_IF_ERROR(MultiplyQuantised(stream, a, quantised));
  }
  ops::MatmulArgs rest = a;
  rest.part_count = 0;
  for (int p = 0; p < a.part_count; ++p) {
    if (!plain[p] && !quantised[p]) rest.parts[rest.part_count++] = a.parts[p];
  }
  return rest.part_count == 0 ? absl::OkStatus() : own(stream, rest);
}

}  // namespace shoal::cuda
