// What this machine can do at most, measured in the same run as the kernels it is compared with.
#pragma once

#include "kernels/ops/stream.h"

namespace shoal::bench {

struct Peak {
  double read_gb_s;    // all threads streaming from memory
  double f32_gflop_s;  // fused multiply-adds in registers, 2 per lane
  double int8_gop_s;   // int8 multiply-adds in registers, 2 per product
};
// Seconds of the caller's processor time with one thread, so that who shares the machine does not count; else of the
// wall.
double Now(const ops::Stream& stream);

Peak MeasurePeak(ops::Stream& stream);

}  // namespace shoal::bench
