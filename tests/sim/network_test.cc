#include "tools/sim/network.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

struct Wire {
  explicit Wire(uint64_t seed) : world(seed), network(&world, {.min = 1, .max = kMillisecond}) {}
  void Send(const std::string& host, Way way, const Network::StreamPtr& stream, int message) {
    network.Send(host, way, stream, [this, message] { arrived.push_back(message); });
  }
  void Run() {
    while (world.Step(world.now() + kSecond)) {
    }
  }
  World world;
  Network network;
  std::vector<int> arrived;
};

TEST(World, DoesWhatIsDueInOrderAndSkips) {
  World world(1);
  std::vector<int> done;
  world.At(20, [&] { done.push_back(3); });
  world.At(10, [&] { done.push_back(1); });
  world.At(10, [&] { done.push_back(2); });
  EXPECT_FALSE(world.Step(9));
  EXPECT_TRUE(world.Step(10));
  EXPECT_EQ(world.now(), 10);
  world.Skip(50);
  EXPECT_TRUE(world.Step(50));
  EXPECT_TRUE(world.Step(50));
  EXPECT_EQ(world.now(), 50);  // what was due meanwhile comes late
  EXPECT_EQ(done, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(world.Step(1000));
}

TEST(Network, OneStreamKeepsItsOrderAndStreamsOvertakeEachOther) {
  int overtaken = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Wire wire(seed);
    const auto a = Network::NewStream(), b = Network::NewStream();
    for (int i = 0; i < 10; ++i) wire.Send("x", Way::kToAgent, a, i);
    for (int i = 10; i < 20; ++i) wire.Send("x", Way::kToAgent, b, i);
    wire.Run();
    ASSERT_EQ(wire.arrived.size(), 20u);
    std::vector<int> of_a, of_b;
    for (int i : wire.arrived) (i < 10 ? of_a : of_b).push_back(i);
    EXPECT_TRUE(std::is_sorted(of_a.begin(), of_a.end()));
    EXPECT_TRUE(std::is_sorted(of_b.begin(), of_b.end()));
    overtaken += std::is_sorted(wire.arrived.begin(), wire.arrived.end()) ? 0 : 1;
  }
  EXPECT_GT(overtaken, 10);
}

TEST(Network, ACutHoldsOneWayOfOneHostUntilItIsHealed) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Wire wire(seed);
    const auto down = Network::NewStream(), up = Network::NewStream(), other = Network::NewStream();
    wire.Send("x", Way::kToAgent, down, 1);  // under way when it is cut
    wire.network.Cut("x", Way::kToAgent);
    EXPECT_FALSE(wire.network.whole("x"));
    EXPECT_TRUE(wire.network.whole("y"));
    wire.Send("x", Way::kToAgent, down, 2);
    wire.Send("x", Way::kToCoordinator, up, 3);
    wire.Send("y", Way::kToAgent, other, 4);
    wire.Run();
    std::sort(wire.arrived.begin(), wire.arrived.end());
    EXPECT_EQ(wire.arrived, (std::vector<int>{3, 4}));
    wire.arrived.clear();
    wire.Send("x", Way::kToAgent, down, 5);  // sent before the heal, due after it
    wire.network.Heal("x");
    wire.Send("x", Way::kToAgent, down, 6);
    wire.Run();
    EXPECT_EQ(wire.arrived, (std::vector<int>{1, 2, 5, 6}));
  }
}

TEST(Network, WhatABrokenStreamHeldNeverArrives) {
  Wire wire(1);
  const auto stream = Network::NewStream();
  wire.network.Cut("x", Way::kToAgent);
  wire.Send("x", Way::kToAgent, stream, 1);
  wire.Run();
  stream->open = false;
  wire.network.Heal("x");
  wire.Run();
  EXPECT_TRUE(wire.arrived.empty());
}

}  // namespace
}  // namespace shoal::sim
