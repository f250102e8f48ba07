// The residual join that a norm begins with.
#pragma once

namespace shoal::ops::ref {

// x[0, dim) += add[0, dim); nothing when add is null.
inline void Join(float* x, const float* add, int dim) {
  for (int i = 0; add != nullptr && i < dim; ++i) x[i] += add[i];
}

}  // namespace shoal::ops::ref
