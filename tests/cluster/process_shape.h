// What the test and its rank processes must agree on.
#pragma once

#include "common/plan/plan_check.h"
#include "worker/comm/shm.h"
#include "worker/rank/control_page.h"

namespace shoal::testing {

inline plan::MirrorLimits ProcessLimits(int vocab) {
  return {.blocks = 64, .block_size = 16, .max_sequences = 16, .max_tokens = 64, .max_model_len = 256, .vocab = vocab};
}

inline comm::GroupShape ProcessShape(int hidden, int tp, int pp) {
  comm::GroupShape shape = {.tp = tp, .pp = pp};
  shape.max_activation_bytes = 64 * int64_t{hidden} * static_cast<int64_t>(sizeof(float));
  shape.max_samples = 16;
  return shape;
}

inline size_t SegmentBytes(const comm::GroupShape& shape) {
  return sizeof(rank::ControlPage) * shape.tp * shape.pp + comm::ShmSegmentBytes(shape);
}

}  // namespace shoal::testing
