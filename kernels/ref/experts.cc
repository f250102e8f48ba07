// Tested by tests/kernels/experts_test.cc
#include "kernels/ops/experts.h"

#include "common/base/status_macros.h"
#include "kernels/ref/ref.h"

namespace shoal::ops::ref {

absl::Status ExpertMatmul(Stream& stream, const ExpertMatmulArgs& a) {
  for (int e = 0; e < a.experts; ++e) {
    const int64_t row = a.first[e], rows = a.first[e + 1] - row, blocks = row * (a.k / kQuantBlock);
    if (rows == 0) continue;
    QuantisedActs xq{};
    if (a.xq != nullptr) xq = {a.xq->q + row * a.k, a.xq->scale + blocks, a.xq->sum + blocks};
    MatmulArgs m = {.x = a.x == nullptr ? nullptr : a.x + row * a.k,
                    .xq = a.xq == nullptr ? nullptr : &xq,
                    .parts = {},
                    .part_count = a.part_count,
                    .tokens = static_cast<int>(rows),
                    .k = a.k};
    for (int p = 0; p < a.part_count; ++p) {
      const Weight w = WeightOf(a.parts[p].w, e);
      m.parts[p] = {.w = w, .y = a.parts[p].y + row * w.n, .y_stride = w.n};
    }
    SHOAL_RETURN_IF_ERROR(Matmul(stream, m));
  }
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
