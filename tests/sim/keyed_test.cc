// The coordinator ends at every write and sync of its journal, on every state of the disk that may be left; and
// requests with a key have one answer.
#include "tools/sim/keyed.h"

#include <memory>

#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

core::GenerateRequest MakeRequest(int key) {
  core::GenerateRequest r;
  r.prompt = {key, 2, 3, 4, 5};
  r.max_tokens = 4 + key;
  return r;
}

struct Script {
  int keys = 3;
  int queue = 100;                 // requests that may wait; those that find no place are refused
  bool at_once = false;            // all come together, so that they share writes and syncs
  int64_t max_bytes = 0;           // of the journal, which is written anew when it is full
  uint64_t first = 0, second = 0;  // operations of the disk at which the process ends, the second after the first
  Left left = Left::kAll;
  bool ignore_syncs = false;
};

// Clients, one cluster of one rank, and whoever starts the coordinator again.
class Scripted {
 public:
  explicit Scripted(const Script& script)
      : s_(script), cluster_(Options(script), {}, 1), keyed_(&cluster_, MakeHooks()) {
    cluster_.OnEnd([this](const core::FinishRequest& e, const Answer& a) { keyed_.End(e, a); });
    if (script.ignore_syncs) keyed_.disk().IgnoreSyncs();
    keyed_.disk().LimitBytes(script.max_bytes);
    keyed_.disk().EndAt(script.first, script.left);
  }

  // What is wrong; none expected.
  std::vector<std::string> Go() {
    cluster_.AddAgent({.id = "a"});
    EXPECT_TRUE(cluster_.RunUntilReady());
    while (!keyed_.Open()) Died();
    for (int key = 1; key <= s_.keys; ++key) {
      // One client asks twice, one goes away for ever when it is cut off.
      const TimeNs at = cluster_.now() + (s_.at_once ? 0 : key * 3 * kMillisecond);
      cluster_.At(at, [this, key] { keyed_.Ask(key, MakeRequest(key), /*insist=*/key != 2); });
      if (key % 2 == 1) cluster_.At(at + 4 * kMillisecond, [this, key] { keyed_.Ask(key, MakeRequest(key)); });
    }
    cluster_.RunUntil(cluster_.now() + 100 * kMillisecond);
    std::vector<std::string> wrong;
    const auto settled = [this] { return cluster_.coordinator_up() && keyed_.settled(); };
    for (int round = 0; round < 2; ++round) {
      if (!cluster_.RunUntil(settled, 60 * kSecond)) wrong.push_back("somebody waits for ever");
      if (round == 0) keyed_.AskForAll();
    }
    for (std::string& problem : keyed_.Judge()) wrong.push_back(std::move(problem));
    for (const std::string& problem : cluster_.problems()) wrong.push_back(problem);
    return wrong;
  }

  // Each of them ends the process.
  void DieOfExecutions() { deadly_ = true; }

  uint64_t operations() { return keyed_.disk().operations(); }
  size_t files() { return keyed_.disk().files(); }
  int deaths() const { return deaths_; }
  const Keyed& keyed() const { return keyed_; }

 private:
  static core::CoreOptions Options(const Script& script) {
    core::CoreOptions o = TestOptions();
    o.max_num_seqs = 2;
    o.max_queued_requests = script.queue;
    return o;
  }
  Keyed::Hooks MakeHooks() {
    Keyed::Hooks hooks;
    hooks.died = [this] {
      cluster_.CrashCoordinator();
      keyed_.Crash(s_.left);
      Died();
      Start();
    };
    hooks.on_execute = [this](const core::GenerateRequest&) {
      if (!deadly_) return;
      cluster_.At(cluster_.now() + kMillisecond, [this] { MakeHooks().died(); });
    };
    return hooks;
  }
  void Died() {
    if (++deaths_ == 1 && s_.second > 0) keyed_.disk().EndAt(operations() + s_.second, s_.left);
  }
  void Start() {
    cluster_.At(cluster_.now() + 20 * kMillisecond, [this] {
      if (keyed_.Open()) return cluster_.RestartCoordinator(true);
      Died();
      Start();
    });
  }

  const Script s_;
  VirtualCluster cluster_;
  Keyed keyed_;
  int deaths_ = 0;
  bool deadly_ = false;
};

std::string First(const std::vector<std::string>& wrong) { return wrong.empty() ? "" : wrong[0]; }

TEST(Keyed, EachKeyIsExecutedOnceAndAnsweredToAll) {
  Scripted run({});
  EXPECT_EQ(First(run.Go()), "");
  EXPECT_EQ(run.keyed().executions(), 3);
  EXPECT_GE(run.keyed().answers_from_journal(), 3);
  EXPECT_EQ(run.deaths(), 0);
}

TEST(Keyed, AFullFileIsWrittenAnew) {
  Scripted run({.keys = 5, .queue = 1, .at_once = true, .max_bytes = 1600});
  EXPECT_EQ(First(run.Go()), "");
  EXPECT_GT(run.files(), 1u);
}

TEST(Keyed, WhatWasRefusedIsFreeForAnotherTry) {
  Scripted run({.keys = 6, .queue = 0, .at_once = true});
  EXPECT_EQ(First(run.Go()), "");
  EXPECT_GT(run.keyed().executions(), 6);
}

class EveryWrite : public testing::TestWithParam<std::tuple<Left, int>> {
 protected:
  Script Make() const {
    static constexpr Script kScripts[] = {{},
                                          {.keys = 4, .at_once = true},
                                          {.keys = 5, .queue = 1, .at_once = true},
                                          {.keys = 5, .queue = 1, .at_once = true, .max_bytes = 1600}};
    Script script = kScripts[std::get<1>(GetParam())];
    script.left = std::get<0>(GetParam());
    return script;
  }
};

TEST_P(EveryWrite, AnEndThereIsNoSecondAnswerAndNoLostOne) {
  Script script = Make();
  Scripted whole(script);
  ASSERT_EQ(First(whole.Go()), "");
  const uint64_t operations = whole.operations();
  ASSERT_GT(operations, 8u);
  for (script.first = 1; script.first <= operations; ++script.first) {
    Scripted run(script);
    ASSERT_EQ(First(run.Go()), "") << "ended at operation " << script.first;
    EXPECT_EQ(run.deaths(), 1);
  }
}

TEST_P(EveryWrite, NorIsASecondEnd) {
  Script script = Make();
  Scripted whole(script);
  ASSERT_EQ(First(whole.Go()), "");
  const uint64_t operations = whole.operations();
  int twice = 0;
  for (script.first = 1; script.first <= operations; ++script.first) {
    for (script.second = 1; script.second <= 10; ++script.second) {
      Scripted run(script);
      ASSERT_EQ(First(run.Go()), "") << "ended at operation " << script.first << " and " << script.second << " later";
      twice += run.deaths() == 2 ? 1 : 0;
    }
  }
  EXPECT_GT(twice, 50);
}

INSTANTIATE_TEST_SUITE_P(Keyed, EveryWrite,
                         testing::Combine(testing::Values(Left::kAll, Left::kPart, Left::kNothing),
                                          testing::Values(0, 1, 2, 3)));

// As long as it runs and its process dies, it is begun again; at the third time it is not.
TEST(Keyed, ThreeEndsAreEnough) {
  Script script{.keys = 1};
  Scripted run(script);
  run.DieOfExecutions();
  EXPECT_EQ(First(run.Go()), "");
  EXPECT_EQ(run.deaths(), 3);
  EXPECT_EQ(run.keyed().executions(), 3);
}

// The simulation notices what it is there for: answers that went out before they were on disk.
TEST(Keyed, ADiskThatLiesIsFound) {
  int found = 0;
  Script script{.left = Left::kNothing, .ignore_syncs = true};
  for (script.first = 1; script.first <= 12; ++script.first) {
    Scripted run(script);
    found += run.Go().empty() ? 0 : 1;
  }
  EXPECT_GT(found, 4);
}

}  // namespace
}  // namespace shoal::sim
