// kernels/ops/experts.h on a device. What is launched follows from the numbers of tokens, places and experts: where
// tokens go is read from device memory, so that a recorded launch serves other routes.
#pragma once

#include "common/base/dtype.h"
#include "kernels/cuda/lang.h"
#include "kernels/cuda/linear.h"
#include "kernels/ops/experts.h"

namespace shoal::cuda {

// Weights in double, rounded to f32; of a token with a logit that is no number no weight is one, but its experts are
// some. InvalidArgument: more experts or places than kMaxExperts and kMaxExpertsUsed.
absl::Status Enqueue(DeviceStream stream, const ops::RouteArgs& op);

// out[t, :] = bf16(sum over j of weight[t, j] * y[sorted[t, j], :]), in f32, in order
struct JoinExperts {
  const bf16* y;          // [tokens * used, dim]
  const float* weights;   // [tokens, used]
  const int32_t* sorted;  // [tokens, used]
  bf16* out;              // [tokens, dim]; must not alias y
  int tokens, used;
  int dim;  // a multiple of 8; rows are 16-byte aligned
};
absl::Status Enqueue(DeviceStream stream, const JoinExperts& op);

inline constexpr int kMaxExpertParts = ops::kMaxExpertParts;

// Of each row what `linear` gives for it alone with the weight of its expert, to the bit.
struct ExpertLinear {
  const bf16* x;  // [rows, k], contiguous, 16-byte aligned; sorted by expert
  struct Part {
    const void* w;           // of expert 0, [n, k] as PackLinear leaves it, 64-byte aligned
    bf16* y;                 // [rows, n], contiguous; must not alias x
    const float* row_scale;  // [experts, n]; null: 1
    const float* bias;       // [experts, n]; null: 0
  } parts[kMaxExpertParts];  // a part without w is absent
  DType type;                // all but kF32; of all parts
  int n;
  int64_t stride;        // bytes from one expert's weight to the next; a multiple of 16
  const int32_t* first;  // [experts + 1], on the device
  int rows, experts;
  int k;          // a multiple of 32
  int tile = -1;  // as Linear::tile; linear::HasExpertTile
};
absl::Status Enqueue(DeviceStream stream, const ExpertLinear& op);

}  // namespace shoal::cuda
