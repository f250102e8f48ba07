#include "worker/rank/process_plans.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/plan/wire.h"

namespace shoal::rank {
namespace {

TEST(RingSource, PlansOfOtherEpochsAndCoordinatorsArePassedOverAndCounted) {
  std::vector<std::byte> memory(plan::RingBytes(1 << 16));
  auto writer = plan::RingWriter::Create(memory);
  ASSERT_TRUE(writer.ok());
  const int reader = *writer->AttachReader();
  auto ring = plan::RingReader::Attach(memory, reader);
  ASSERT_TRUE(ring.ok());
  std::atomic<uint64_t> stale{0};
  RingSource source(&*ring, {5, 7, 0}, &stale);
  const auto append = [&](const plan::Stamp& stamp) {
    plan::StepPlan plan;
    plan.stamp = stamp;
    EXPECT_TRUE(writer->Append(plan::RecordKind::kPlan, stamp, plan::EncodePlan(plan)).ok());
  };
  EXPECT_TRUE(writer->Append(plan::RecordKind::kSetup, {4, 7, 0}, "of another rank").ok());
  append({4, 7, 1});
  append({6, 7, 2});
  append({5, 8, 3});
  append({5, 7, 4});
  EXPECT_TRUE(source.HasNext());
  plan::StepPlan plan;
  TimeNs arrived = 0;
  ASSERT_TRUE(source.Next(&plan, &arrived).ok());
  EXPECT_EQ(4u, plan.stamp.step);
  EXPECT_GT(arrived, 0);
  EXPECT_EQ(3u, stale);
  EXPECT_FALSE(source.HasNext());
  EXPECT_TRUE(writer->Append(plan::RecordKind::kStop, {5, 0, 0}, {}).ok());
  EXPECT_TRUE(absl::IsCancelled(source.Next(&plan, &arrived)));
  EXPECT_EQ(3u, stale);
}

}  // namespace
}  // namespace shoal::rank
