#include "common/plan/wire_grpc.h"

#include <gtest/gtest.h>

namespace shoal::plan {
namespace {

TEST(IsLoopback, TakesAddressesOfThisMachineOnly) {
  for (const char* address : {"localhost:1", "127.0.0.1:1", "127.255.255.254:80", "[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"127.example.com:1", "127.0.0.1.example.com:1", "127.0.1:1", "128.0.0.1:1",
                              "10.127.0.1:1", "0.0.0.0:1", "[::]:1", "[::2]:1", "localhost.example.com:1", ":1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace shoal::plan
