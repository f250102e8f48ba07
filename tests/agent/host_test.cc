#include "worker/agent/host.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "common/plan/wire_grpc.h"

namespace shoal::agent {
namespace {

TEST(HostFacts, AreThoseOfThisMachine) {
  const HostFacts facts = ReadHostFacts();
  char name[256] = {};
  ASSERT_EQ(0, ::gethostname(name, sizeof name - 1));
  EXPECT_EQ(name, facts.hostname);
  EXPECT_EQ(36u, facts.boot_id.size());  // a UUID
  EXPECT_EQ(facts.boot_id, ReadHostFacts().boot_id);
  EXPECT_GE(facts.cores, 1);
  EXPECT_LE(facts.cores, ::sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_GT(facts.memory_available, 0);
  EXPECT_LE(facts.memory_available, int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE));
}

TEST(RandomName, DoesNotRepeat) {
  std::set<std::string> names;
  for (int i = 0; i < 1000; ++i) names.insert(RandomName());
  EXPECT_EQ(1000u, names.size());
  EXPECT_EQ(16u, names.begin()->size());
}

TEST(ResidentBytes, OfThisProcessAndOfNone) {
  EXPECT_GT(ResidentBytes(::getpid()), 100'000);
  EXPECT_EQ(0, ResidentBytes(-1));
}

TEST(AdvertisedAddress, IsTheListenedOneUnlessThatMeansAll) {
  EXPECT_EQ("127.0.0.1:5", *AdvertisedAddress("127.0.0.1:0", 5, "127.0.0.1:1"));
  EXPECT_EQ("worker-3.ns:5", *AdvertisedAddress("worker-3.ns:0", 5, "127.0.0.1:1"));
  EXPECT_EQ("127.0.0.1:5", *AdvertisedAddress("0.0.0.0:0", 5, "127.0.0.1:1"));
  EXPECT_EQ(absl::StatusCode::kUnavailable,
            AdvertisedAddress("0.0.0.0:0", 5, "no-such-host.invalid:1").status().code());
}

TEST(Loopback, IsRecognised) {
  for (const char* a : {"127.0.0.1:1", "127.8.9.1:0", "localhost:80", "[::1]:80"}) {
    EXPECT_TRUE(plan::IsLoopback(a)) << a;
  }
  for (const char* a : {"0.0.0.0:1", "10.0.0.1:80", "[::]:80", "host:80", "localhost.example:1"}) {
    EXPECT_FALSE(plan::IsLoopback(a)) << a;
  }
  EXPECT_EQ("::1", plan::HostOf("[::1]:80"));
}

}  // namespace
}  // namespace shoal::agent
