#include "coordinator/core/scheduler.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace shoal::core {
namespace {

// A decision in one line: "rows 0:1+1 2:16 | admit 16/4 | preempt 3". rows index:count+new_blocks.
std::string Show(const Decision& d) {
  std::string text = "rows";
  for (const auto& r : d.rows) {
    absl::StrAppend(&text, " ", r.index, ":", r.count);
    if (r.new_blocks > 0) absl::StrAppend(&text, "+", r.new_blocks);
  }
  if (!d.admit.empty()) text += " | admit";
  for (const auto& a : d.admit) absl::StrAppend(&text, " ", a.count, "/", a.blocks);
  if (!d.preempt.empty()) text += " | preempt";
  for (int32_t i : d.preempt) absl::StrAppend(&text, " ", i);
  return text;
}

// Block size 4. A sequence that has prefilled `start` tokens and computed `computed`, with blocks that just cover it.
RunningView At(int32_t start, int32_t computed, int32_t unanswered = 1, int32_t cohort = 0) {
  const int32_t covered = std::max(start, computed);
  return {cohort, unanswered, start, computed, (covered + 3) / 4, true};
}
RunningView Done(RunningView s) {
  s.wants_more = false;
  return s;
}

// With `shared` blocks of the siblings that name the same prompt.
RunningView Sibling(RunningView s, int32_t shared, int32_t prompt) {
  s.shared = shared;
  s.prompt = prompt;
  return s;
}
RunningView With(RunningView s, Scored scored) {
  s.scored = scored;
  return s;
}

struct Case {
  const char* what;
  SchedulerView view;
  const char* decision;
};

SchedulerView View(std::vector<RunningView> running, std::vector<WaitingView> waiting, int32_t blocks_free,
                   int32_t max_tokens = 16) {
  SchedulerView v;
  v.block_size = 4;
  v.blocks_free = blocks_free;
  v.max_tokens = max_tokens;
  v.max_sequences = 4;
  v.waiting_total = static_cast<int32_t>(waiting.size());
  v.running = std::move(running);
  v.waiting = std::move(waiting);
  return v;
}

SchedulerView Cohort(SchedulerView v, int32_t cohort, int32_t cohorts) {
  v.cohort = cohort;
  v.cohorts = cohorts;
  return v;
}

TEST(Decide, Table) {
  const Case cases[] = {
      {"nothing", View({}, {}, 8), "rows"},
      {"one decode, a new block at the border", View({At(4, 8)}, {}, 8), "rows 0:1+1"},
      {"one decode inside a block", View({At(4, 9)}, {}, 8), "rows 0:1"},
      {"two unanswered plans are enough", View({At(4, 9, 2), At(4, 9, 1)}, {}, 8), "rows 1:1"},
      {"all its tokens are promised", View({Done(At(4, 9)), At(4, 9)}, {}, 8), "rows 1:1"},
      {"decode before older prefill", View({At(40, 10), At(4, 9)}, {}, 8), "rows 1:1 0:15"},
      {"prefill in order of arrival, within the budget", View({At(20, 8), At(20, 0)}, {}, 8), "rows 0:12 1:4"},
      {"the rest of a prompt", View({At(20, 18)}, {}, 8), "rows 0:2"},
      {"the budget binds decode, too", View({At(4, 9), At(4, 9), At(4, 9)}, {}, 8, 2), "rows 0:1 1:1"},
      {"decode, prefill, then new ones", View({At(4, 9), At(9, 8)}, {{5}, {30}}, 20), "rows 0:1 1:1 | admit 5/2 9/8"},
      {"at most max_sequences", View({At(4, 9), At(4, 9), At(4, 9)}, {{1}, {1}}, 20), "rows 0:1 1:1 2:1 | admit 1/1"},
      {"first come first served: a big head blocks", View({At(4, 9)}, {{40}, {1}}, 8), "rows 0:1"},
      {"room for the next token counts", View({}, {{8}}, 2), "rows"},
      {"half a block for each that runs stays free", View({At(4, 9), At(4, 9)}, {{3}}, 1), "rows 0:1 1:1"},
      {"and with it there is room", View({At(4, 9), At(4, 9)}, {{3}}, 2), "rows 0:1 1:1 | admit 3/1"},
      {"tokens of a former run are still to come", View({}, {{3, false}, {3}}, 8), "rows"},
      {"who came last gives way", View({At(4, 8), At(4, 9), At(4, 9)}, {}, 0), "rows 0:1+1 1:1 | preempt 2"},
      {"of two siblings that give way, the second frees what they share",
       View({At(4, 8), At(4, 8), At(4, 8), At(4, 8), Sibling(At(4, 9), 2, 7), Sibling(At(4, 9), 2, 7)}, {}, 0),
       "rows 0:1+1 1:1+1 2:1+1 3:1+1 | preempt 5 4"},
      {"but not when a third one holds it",
       View({Sibling(At(4, 9), 2, 7), At(4, 8), At(4, 8), At(4, 8), Sibling(At(4, 9), 2, 7)}, {}, 0),
       "rows 0:1 1:1+1 2:1+1 | preempt 4 3"},
      {"a sibling's prompt need not be computed", View({}, {{9, true, 8, 2}}, 8), "rows | admit 1/1"},
      {"rows with outputs for each token are short", View({With(At(20, 0), {0, 20})}, {}, 8), "rows 0:4"},
      {"one output stays for each that runs", View({With(At(20, 0), {0, 20}), At(4, 9), At(4, 9)}, {}, 8),
       "rows 1:1 2:1 0:2"},
      {"what has its outputs is computed without", View({With(At(20, 0), {8, 20})}, {}, 8), "rows 0:8"},
      {"and what is behind the prompt", View({With(At(20, 17), {8, 19})}, {}, 8), "rows 0:2"},
      {"also at its start", View({}, {{20, true, 0, 0, {0, 20}}}, 8), "rows | admit 4/5"},
      {"without an output left nobody starts", View({With(At(20, 0), {0, 20})}, {{1}}, 8), "rows 0:4"},
      {"even itself", View({At(4, 9), At(4, 8)}, {}, 0), "rows 0:1 | preempt 1"},
      {"nobody is left for the second", View({At(4, 8), At(4, 8), At(1, 1)}, {}, 0), "rows 0:1+1 | preempt 2 1"},
      {"nobody starts when somebody gave way", View({At(4, 8), At(40, 9)}, {{1}}, 0), "rows 0:1+1 | preempt 1"},
      {"a prefill gives way, too", View({At(4, 8), At(12, 4)}, {}, 0), "rows 0:1+1 | preempt 1"},
      {"only its own cohort", Cohort(View({At(4, 9, 0, 0), At(4, 9, 0, 1)}, {}, 8), 1, 2), "rows 1:1"},
      {"victims of any cohort", Cohort(View({At(4, 8, 0, 0), At(4, 9, 0, 1)}, {}, 0), 0, 2), "rows 0:1+1 | preempt 1"},
      {"new ones are shared among cohorts", Cohort(View({}, {{1}, {1}, {1}, {1}}, 8), 0, 2), "rows | admit 1/1 1/1"},
      {"a cohort with its share takes no more", Cohort(View({At(4, 9, 0, 0)}, {{1}}, 8), 0, 2), "rows 0:1"},
      {"the other one takes it", Cohort(View({At(4, 9, 0, 0)}, {{1}}, 8), 1, 2), "rows | admit 1/1"},
  };
  for (const Case& c : cases) EXPECT_EQ(Show(Decide(c.view)), c.decision) << c.what;
}

TEST(Decide, SeveralVictimsForOneBlockNeed) {
  // Three decodes at a border, nothing free, the last ones hold one block each: 0 takes the block of 3, 1 that of 2.
  SchedulerView v = View({At(4, 8), At(4, 8), At(1, 2), At(1, 2)}, {}, 0);
  EXPECT_EQ(Show(Decide(v)), "rows 0:1+1 1:1+1 | preempt 3 2");
}

TEST(DecideDeathTest, ASequenceThatTheCacheCannotHoldAloneIsABug) {
  EXPECT_DEATH(Decide(View({At(4, 8)}, {}, 0)), "check failed");
}

TEST(Decide, SameViewSameDecision) {
  const SchedulerView v = View({At(4, 8), At(20, 3), At(4, 9)}, {{7}, {2}}, 3);
  EXPECT_EQ(Show(Decide(v)), Show(Decide(v)));
}

TEST(Balance, MovesOneWhenCohortsDifferByTwo) {
  SchedulerView v = Cohort(View({At(4, 9, 1, 0), At(4, 9, 0, 0), At(4, 9, 1, 0), At(4, 9, 0, 1)}, {}, 8), 0, 2);
  const CohortMove move = Balance(v);
  EXPECT_EQ(move.index, 1);  // nothing of it is unanswered
  EXPECT_EQ(move.to, 1);
  v.running.pop_back();
  v.running.pop_back();
  EXPECT_EQ(Balance(v).index, 1);
  v.running.push_back(At(4, 9, 0, 1));
  EXPECT_EQ(Balance(v).index, -1);
  EXPECT_EQ(Balance(View({At(4, 9), At(4, 9)}, {}, 8)).index, -1);
}

}  // namespace
}  // namespace shoal::core
