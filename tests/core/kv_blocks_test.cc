#include "coordinator/core/kv_blocks.h"

#include <algorithm>
#include <set>

#include "common/base/rng.h"
#include "gtest/gtest.h"

namespace shoal::core {
namespace {

TEST(BlockPool, AllOrNothing) {
  BlockPool pool(4);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pool.Allocate(3, &a));
  EXPECT_EQ(a, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.Allocate(2, &b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool.free(), 1);
  ASSERT_TRUE(pool.Allocate(1, &a));
  EXPECT_EQ(a.size(), 4u);
  EXPECT_TRUE(pool.Allocate(0, &b));
  pool.Release(a);
  EXPECT_EQ(pool.free(), 4);
  pool.CheckInvariants();
}

TEST(BlockPool, ASharedBlockIsFreeAfterItsLastHolder) {
  BlockPool pool(2);
  std::vector<int32_t> a;
  ASSERT_TRUE(pool.Allocate(1, &a));
  pool.Share(a[0]);
  EXPECT_EQ(pool.holders(a[0]), 2);
  pool.Release(a[0]);
  EXPECT_EQ(pool.free(), 1);
  pool.Release(a[0]);
  EXPECT_EQ(pool.free(), 2);
}

TEST(BlockPool, BlocksThatAreNamedMayBeSharedInFront) {
  BlockPool pool(5);
  pool.Take({3, 1, 0}, 2);
  pool.Take({3, 1, 2}, 2);
  EXPECT_EQ(pool.holders(3), 2);
  EXPECT_EQ(pool.holders(1), 2);
  EXPECT_EQ(pool.holders(2), 1);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_DEATH(pool.Take({3, 1, 2}, 2), "");
  pool.Release(std::vector<int32_t>{3, 1, 0});
  EXPECT_EQ(pool.free(), 2);
  pool.CheckInvariants();
}

TEST(BlockPool, GivesTheBlocksThatAreNamed) {
  BlockPool pool(5);
  pool.Take({3, 1});
  EXPECT_EQ(pool.free(), 3);
  EXPECT_EQ(pool.holders(3), 1);
  std::vector<int32_t> rest;
  ASSERT_TRUE(pool.Allocate(3, &rest));
  std::sort(rest.begin(), rest.end());
  EXPECT_EQ(rest, (std::vector<int32_t>{0, 2, 4}));
  pool.Release(std::vector<int32_t>{1, 3});
  EXPECT_EQ(pool.free(), 2);
  pool.CheckInvariants();
}

TEST(BlockPool, RandomUseLeaksNothing) {
  BlockPool pool(50);
  std::vector<std::vector<int32_t>> held;
  for (uint64_t i = 0; i < 5000; ++i) {
    const uint64_t r = RandomBits(1, 1, i);
    if (r % 2 == 0 || held.empty()) {
      std::vector<int32_t> blocks;
      if (pool.Allocate(static_cast<int32_t>(r / 2 % 9), &blocks)) held.push_back(std::move(blocks));
    } else {
      pool.Release(held[r / 2 % held.size()]);
      held.erase(held.begin() + static_cast<int64_t>(r / 2 % held.size()));
    }
    std::set<int32_t> distinct;
    size_t total = 0;
    for (const auto& blocks : held) {
      distinct.insert(blocks.begin(), blocks.end());
      total += blocks.size();
    }
    ASSERT_EQ(distinct.size(), total);
    ASSERT_EQ(pool.free() + static_cast<int32_t>(total), 50);
    pool.CheckInvariants();
  }
}

TEST(BlockPoolDeathTest, MisuseAborts) {
  BlockPool pool(2);
  std::vector<int32_t> a;
  ASSERT_TRUE(pool.Allocate(1, &a));
  pool.Release(a[0]);
  EXPECT_DEATH(pool.Release(a[0]), "check failed");
  EXPECT_DEATH(pool.Share(a[0]), "check failed");
  EXPECT_DEATH(pool.Release(2), "check failed");
}

}  // namespace
}  // namespace shoal::core
