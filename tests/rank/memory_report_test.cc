#include "worker/rank/memory_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"

namespace shoal::rank {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kMiB = size_t{1} << 20;

class MemoryReportTest : public ::testing::Test {
 protected:
  MemoryReport Report(int64_t planned_mib) {
    return MemoryReport(device_.get(), planned_mib << 20, [this](const std::string& line) { said_.push_back(line); });
  }
  void Allocate(size_t mib) { ASSERT_TRUE(device_->Allocate(mib * kMiB).ok()); }

  const std::unique_ptr<ops::Accelerator> device_ =
      cuda::MakeEmulatedAccelerator({.table = &cuda::Table(), .memory_bytes = 256 * kMiB});
  std::vector<std::string> said_;
};

TEST_F(MemoryReportTest, SaysBothFiguresOnceWhenTheyAgree) {
  MemoryReport report = Report(100);
  Allocate(98);
  for (int i = 0; i < 1000; ++i) report.AfterStep();
  EXPECT_THAT(said_, ElementsAre("device memory: 98 MiB in use, 100 MiB planned (-2.0 %)"));
}

TEST_F(MemoryReportTest, WarnsOnceOfMoreThanTheTolerance) {
  MemoryReport report = Report(100);
  Allocate(100);
  report.AfterStep();
  Allocate(10);
  for (int i = 0; i < 1000; ++i) report.AfterStep();
  ASSERT_EQ(said_.size(), 2u);
  EXPECT_THAT(said_[1], ::testing::StartsWith("device memory: 110 MiB in use, 100 MiB planned (+10.0 %): another"));
  EXPECT_THAT(said_[1], ::testing::HasSubstr("--gpu-memory-utilization"));
}

TEST_F(MemoryReportTest, WarnsAtOnceAndThenNoMore) {
  MemoryReport report = Report(100);
  Allocate(120);
  for (int i = 0; i < 1000; ++i) report.AfterStep();
  EXPECT_EQ(said_.size(), 1u);
}

TEST_F(MemoryReportTest, SaysNothingWithoutAPlan) {
  MemoryReport report = Report(0);
  Allocate(10);
  for (int i = 0; i < 10; ++i) report.AfterStep();
  EXPECT_THAT(said_, IsEmpty());
}

}  // namespace
}  // namespace shoal::rank
