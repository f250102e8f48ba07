// Tested by tests/kernels/matmul_test.cc
// The kernels are written on the Vec of the first header, so the order matters.
// clang-format off
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/matmul_kernel.h"
#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/sample_kernel.h"
// clang-format on

namespace shoal::ops::cpu {

extern const KernelSet kAvx2Set = {
    .name = "cpu-avx2",
    .lanes = Vec::kLanes,
    .matmul = {MatmulKernel<PlainF32>, MatmulKernel<PlainF16>, MatmulKernel<PlainBF16>, MatmulKernel<FormatQ8_0>,
               MatmulKernel<FormatQ4_0>, MatmulKernel<FormatQ4_1>, MatmulKernel<PlainF8E4M3>, MatmulKernel<PlainI8>,
               MatmulKernel<FormatQ8_0>},
    .quantise = QuantiseKernel,
    .rms_norm = RmsNormKernel,
    .layer_norm = LayerNormKernel,
    .glu = {GluKernel<Silu>, GluKernel<GeluTanh>, GluKernel<Gelu>},
    .soft_cap = SoftCapKernel,
    .store = StoreKernel,
    .weights = WeightsKernel,
    .total_weight = TotalWeightKernel,
    .attend = AttendKernel,
    .fold = FoldKernel,
};

}  // namespace shoal::ops::cpu
