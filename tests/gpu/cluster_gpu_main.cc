// The main of the decoder's and the engine's tests on the suite's device (tests/graph/accelerator_test.cc,
// tests/rank/accelerator_engine_test.cc, and nccl_gpu_test.cc): without one it says so and ends with kNoDevice.
// Tested by: tests/graph/accelerator_test.cc
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/lost_device.h"
#include "tests/gpu/nccl_rank.h"

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == shoal::gpu::kNcclRank) return shoal::gpu::RunNcclRank(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  const auto accelerator = shoal::gpu::OpenAccelerator();
  if (!accelerator.ok()) return shoal::gpu::ReportNotOpened(accelerator.status());
  std::printf("%s\n", shoal::gpu::DescribeDevice().c_str());
  testing::UnitTest::GetInstance()->listeners().Append(new shoal::gpu::EndsWithItsDevice);
  return RUN_ALL_TESTS();
}
