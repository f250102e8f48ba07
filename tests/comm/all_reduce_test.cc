// The size table: which way a sum takes.
#include "worker/comm/all_reduce.h"

#include <gtest/gtest.h>

namespace shoal::comm {
namespace {

TEST(AllReduceTable, SmallSumsGoOverPeerMemoryWhereThereIsSome) {
  for (int ranks = 2; ranks <= 8; ++ranks) {
    const size_t limit = PeerAllReduceBytes(ranks);
    EXPECT_EQ(ChooseAllReduce(ranks, 2, true), AllReduceAlgorithm::kPeer);
    EXPECT_EQ(ChooseAllReduce(ranks, limit, true), AllReduceAlgorithm::kPeer);
    EXPECT_NE(ChooseAllReduce(ranks, limit + 2, true), AllReduceAlgorithm::kPeer);
    EXPECT_EQ(ChooseAllReduce(ranks, 2, false), AllReduceAlgorithm::kOneShot);
    EXPECT_LE(PeerAllReduceBytes(ranks + 1), limit) << "more ranks fetch more";
  }
  EXPECT_EQ(ChooseAllReduce(9, 2, true), AllReduceAlgorithm::kOneShot);
}

TEST(AllReduceTable, LargeSumsAreTwoShot) {
  for (const bool peers : {false, true}) {
    EXPECT_EQ(ChooseAllReduce(8, NcclOneShotBytes(), peers), AllReduceAlgorithm::kOneShot);
    EXPECT_EQ(ChooseAllReduce(8, NcclOneShotBytes() + 2, peers), AllReduceAlgorithm::kTwoShot);
    EXPECT_EQ(ChooseAllReduce(2, (size_t{1} << 20) + 2, peers), AllReduceAlgorithm::kTwoShot);
  }
}

TEST(AllReducePolicy, HasNames) {
  EXPECT_EQ(AllReducePolicyFromName("auto"), AllReducePolicy::kAuto);
  EXPECT_EQ(AllReducePolicyFromName("nccl"), AllReducePolicy::kNccl);
  EXPECT_EQ(AllReducePolicyFromName("one-shot"), AllReducePolicy::kOneShot);
  EXPECT_EQ(AllReducePolicyFromName("two-shot"), std::nullopt);
}

}  // namespace
}  // namespace shoal::comm
