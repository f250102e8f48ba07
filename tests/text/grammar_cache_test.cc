// The cache: hits, eviction, threads, and what ten thousand schemas cost.
#include "common/text/grammar_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/text/grammar_fixture.h"

namespace shoal::text {
namespace {

using testing::Random;
using testing::SchemaSpec;
using testing::SmolGrammars;
using testing::Walk;

GrammarSpec Numbered(int i) {
  const std::string n = std::to_string(i);
  return SchemaSpec(R"({"type":"object","properties":{"field_)" + n +
                    R"(":{"type":"string","maxLength":20},"kind":{"enum":["a","b",")" + n +
                    R"("]},"list":{"type":"array","items":{"type":"integer"}}},"required":["field_)" + n + R"("]})");
}

TEST(GrammarCache, HitsAndEviction) {
  GrammarCache cache(SmolGrammars().compiler, GrammarLimits{}, size_t{2} << 20);
  const auto first = cache.Get(Numbered(0));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(*cache.Get(Numbered(0)), *first);
  EXPECT_EQ(cache.stats().hits, 1u);
  EXPECT_EQ(cache.stats().misses, 1u);
  EXPECT_EQ(cache.stats().entries, 1u);
  EXPECT_FALSE(cache.Get(SchemaSpec("{")).ok());
  EXPECT_EQ(cache.stats().entries, 1u) << "errors are not kept";
  for (int i = 1; i < 200; ++i) {
    ASSERT_TRUE(cache.Get(Numbered(i)).ok());
    ASSERT_TRUE(cache.Get(Numbered(0)).ok()) << "in use all the time";
    EXPECT_LE(cache.stats().bytes, size_t{2} << 20);
  }
  EXPECT_LT(cache.stats().entries, 200u);
  EXPECT_GT(cache.stats().entries, 1u);
  EXPECT_EQ(*cache.Get(Numbered(0)), *first) << "the last used stays";
  const auto second = cache.Get(Numbered(1));
  ASSERT_TRUE(second.ok()) << "the longest unused went, and is made again";
  GrammarCache none(SmolGrammars().compiler, GrammarLimits{}, 0);
  EXPECT_TRUE(none.Get(Numbered(1)).ok()) << "without room it compiles each time";
  EXPECT_EQ(none.stats().entries, 0u);
}

TEST(GrammarCache, ManyThreads) {
  GrammarCache cache(SmolGrammars().compiler, GrammarLimits{}, size_t{8} << 20);
  std::vector<int> ended(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, &ended, t] {
      Random random(static_cast<uint64_t>(t));
      for (int i = 0; i < 6; ++i) {
        const auto grammar = cache.Get(Numbered(i % 3));
        if (!grammar.ok()) continue;
        const std::unique_ptr<Matcher> matcher = (*grammar)->NewMatcher();
        if (Walk(SmolGrammars(), *matcher, random, 60).has_value()) ++ended[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : ended) EXPECT_GT(count, 0);
}

// Resident memory of this process, in bytes.
int64_t Resident() {
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  long long size = 0, resident = 0;  // NOLINT(runtime/int): as fscanf has it
  EXPECT_EQ(std::fscanf(file, "%lld %lld", &size, &resident), 2);
  std::fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(GrammarCache, TenThousandSchemas) {
  GrammarCache cache(SmolGrammars().compiler, GrammarLimits{}, size_t{32} << 20);
  const int64_t before = Resident();
  std::vector<uint32_t> mask(static_cast<size_t>(SmolGrammars().vocab + 31) / 32);
  for (int i = 0; i < 10'000; ++i) {
    const auto grammar = cache.Get(Numbered(i));
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    const std::unique_ptr<Matcher> matcher = (*grammar)->NewMatcher();
    ASSERT_TRUE(matcher->FillMask(mask).ok());
  }
  const int64_t grown = Resident() - before;
  std::printf("10,000 schemas: %.1f MiB more, of which the cache says it holds %.1f MiB in %zu grammars\n",
              static_cast<double>(grown) / (1 << 20), static_cast<double>(cache.stats().bytes) / (1 << 20),
              cache.stats().entries);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what is freed
  EXPECT_LT(grown, int64_t{64} << 20);
#endif
  EXPECT_LE(cache.stats().bytes, size_t{32} << 20);
}

}  // namespace
}  // namespace shoal::text
