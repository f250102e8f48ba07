// The simulator must notice: each mutation is a bug as a coordinator or an agent could have it, put between the core
// and the cluster, and the oracle has to object within a few seeds. Without one it never does.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "gtest/gtest.h"
#include "tools/sim/run.h"

namespace shoal::sim {
namespace {

using Prepare = std::function<void(VirtualCluster&)>;

constexpr uint64_t kSeeds = 60;

// The first problem of each seed that has one.
std::vector<std::string> Problems(const Prepare& prepare, uint64_t seeds = kSeeds) {
  std::vector<std::string> found;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const RunResult result = RunSeed(seed, {.trace = nullptr, .prepare = prepare});
    if (!result.problems.empty()) found.push_back(result.problems[0]);
  }
  return found;
}

void ExpectFound(const Prepare& prepare, const std::string& part, size_t at_least, uint64_t seeds = kSeeds) {
  const std::vector<std::string> found = Problems(prepare, seeds);
  EXPECT_GE(found.size(), at_least);
  const bool named =
      std::any_of(found.begin(), found.end(), [&](const std::string& p) { return p.find(part) != std::string::npos; });
  EXPECT_TRUE(named) << part << " is none of " << found.size() << ", as in: " << (found.empty() ? "" : found[0]);
}

// The `nth` effect of a kind is carried out so often.
template <typename Kind>
Prepare Copies(int nth, int copies) {
  return [nth, copies](VirtualCluster& cluster) {
    const auto seen = std::make_shared<int>(0);
    cluster.Set({nullptr, [seen, nth, copies](const core::Effect& effect) {
                   return std::holds_alternative<Kind>(effect) && ++*seen == nth ? copies : 1;
                 }});
  };
}

Prepare Events(std::function<void(core::Event*)> change) {
  return [change = std::move(change)](VirtualCluster& cluster) { cluster.Set({change, nullptr}); };
}

TEST(Mutations, NoneIsNoProblem) { EXPECT_TRUE(Problems(nullptr).empty()); }

TEST(Mutations, ALostToken) { ExpectFound(Copies<core::EmitTokens>(5, 0), "tokens", 40); }

TEST(Mutations, ATokenTwice) { ExpectFound(Copies<core::EmitTokens>(5, 2), "other tokens than alone", 40); }

TEST(Mutations, ALostEnd) { ExpectFound(Copies<core::FinishRequest>(4, 0), "requests are open", 30); }

TEST(Mutations, AnEndTwice) { ExpectFound(Copies<core::FinishRequest>(4, 2), "ended 2 times", 30); }

TEST(Mutations, ALostPlan) { ExpectFound(Copies<core::SendPlan>(7, 0), "steps", 10); }

TEST(Mutations, AnAnswerOfTheStepBefore) {
  const auto last = std::make_shared<std::map<plan::SequenceId, plan::RowResult>>();
  const auto count = std::make_shared<int>(0);
  ExpectFound(Events([last, count](core::Event* event) {
                auto* answer = std::get_if<core::StepAnswered>(event);
                if (answer == nullptr) return;
                for (plan::RowResult& row : answer->result.rows) {
                  const plan::RowResult now = row;
                  if (++*count % 50 == 0 && last->contains(row.id)) row = last->at(row.id);
                  (*last)[row.id] = now;
                }
              }),
              "other tokens than alone", 20);
}

// A KV cache that is new and is taken for the one that was there before.
TEST(Mutations, AForgottenCache) {
  ExpectFound(Events([](core::Event* event) {
                auto* loaded = std::get_if<core::LoadAdvanced>(event);
                if (loaded == nullptr) return;
                for (plan::LoadProgress::Cache& cache : loaded->progress.caches) {
                  cache.id = static_cast<uint64_t>(cache.rank) + 1;
                }
              }),
              "", 5);
}

// What agents hold is not said: others read it again.
TEST(Mutations, WeightsThatNobodySpeaksOf) {
  ExpectFound(Events([](core::Event* event) {
                auto* registered = std::get_if<core::AgentRegistered>(event);
                if (registered != nullptr) registered->info.held_ranks.clear();
              }),
              "read the weights", 5, 10 * kSeeds);
}

// Tensor ranks hold different states, and the coordinator does not get to see it.
TEST(Mutations, ChecksumsThatAreAllTheSame) {
  ExpectFound(Events([](core::Event* event) {
                auto* answer = std::get_if<core::StepAnswered>(event);
                if (answer != nullptr && answer->result.checksum != 0) answer->result.checksum = 2;
              }),
              "whose ranks hold different states", 2, 2 * kSeeds);
}

// An agent that shall be drained is given up at once.
TEST(Mutations, ADrainThatIsALoss) {
  ExpectFound(Events([](core::Event* event) {
                const auto* drain = std::get_if<core::DrainRequested>(event);
                if (drain != nullptr) *event = core::AgentLost{plan::AgentId(drain->agent), "drained"};
              }),
              "false alarm", 3, 10 * kSeeds);
}

TEST(Mutations, HeartbeatsThatDoNotCount) {
  ExpectFound(Events([](core::Event* event) {
                auto* beat = std::get_if<core::HeartbeatReceived>(event);
                if (beat != nullptr) beat->heartbeat.incarnation += 1;
              }),
              "", 20);
}

}  // namespace
}  // namespace shoal::sim
