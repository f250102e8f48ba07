#include "coordinator/journal/journal.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <future>

#include "tests/testing/temp_dir.h"

namespace shoal::journal {
namespace {

using Outcome = Begun::Outcome;

class JournalTest : public ::testing::Test {
 protected:
  std::unique_ptr<Journal> Open() {
    StoreOptions options;
    options.directory = dir_ / "state";
    options.now_s = [] { return 1'700'000'000; };
    options.max_entries = max_entries_;
    options.sync = [this](int) {
      ++syncs_;
      errno = EIO;
      return fails_.load() ? -1 : 0;
    };
    auto opened = Journal::Open(std::move(options));
    EXPECT_TRUE(opened.ok()) << opened.status();
    return std::move(*opened);
  }
  static Digest Id(uint8_t n) { return Digest{n}; }
  static Begun Begin(Journal& journal, uint8_t n, const std::string& request) {
    std::promise<Begun> told;
    journal.Begin(Id(n), Id(n), request, [&](Begun begun) { told.set_value(std::move(begun)); });
    return told.get_future().get();
  }
  static absl::Status Finish(Journal& journal, uint8_t n, const std::string& answer) {
    std::promise<absl::Status> told;
    journal.Finish(Id(n), answer, [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }

  testing::TempDir dir_;
  size_t max_entries_ = 100;
  std::atomic<int> syncs_{0};
  std::atomic<bool> fails_{false};
};

TEST_F(JournalTest, TellsInOrderAndAfterTheDisk) {
  auto journal = Open();
  const int before = syncs_;
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kAccepted);
  EXPECT_GT(syncs_, before);
  std::vector<std::string> heard;
  std::promise<void> last;
  journal->Begin(Id(1), Id(1), "r",
                 [&](const Begun& begun) { heard.push_back(begun.outcome == Outcome::kRunning ? "running" : "?"); });
  journal->Finish(Id(1), "a", [&](const absl::Status& status) { heard.push_back(status.ok() ? "finished" : "?"); });
  journal->Begin(Id(1), Id(1), "r", [&](const Begun& begun) {
    heard.push_back(begun.answer);
    last.set_value();
  });
  last.get_future().get();
  EXPECT_EQ(heard, (std::vector<std::string>{"running", "finished", "a"}));
}

TEST_F(JournalTest, StopCarriesOutWhatWasAskedForAndWhatThatAsksFor) {
  auto journal = Open();
  int told = 0;
  for (uint8_t n = 1; n <= 20; ++n) {
    journal->Begin(Id(n), Id(n), "r", [&, n](const Begun&) {
      journal->BeginAgain(Id(n), true, [&](const absl::StatusOr<Again>& again) { told += again.ok() ? 1 : 0; });
    });
  }
  journal->Stop();
  EXPECT_EQ(told, 20);
  journal.reset();
  EXPECT_EQ(Open()->unfinished().size(), 20u);
}

TEST_F(JournalTest, WhatIsForgottenIsTold) {
  auto journal = Open();
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kAccepted);
  std::promise<void> told;
  journal->Forget(Id(1), [&] { told.set_value(); });
  told.get_future().get();
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kAccepted);
}

TEST_F(JournalTest, WhatIsNotOnDiskIsToldAsFailed) {
  auto journal = Open();
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kAccepted);
  fails_ = true;
  const Begun begun = Begin(*journal, 2, "r");
  EXPECT_EQ(begun.outcome, Outcome::kFailed);
  EXPECT_EQ(begun.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(Finish(*journal, 1, "a").ok());
  fails_ = false;
  EXPECT_EQ(Begin(*journal, 2, "r").outcome, Outcome::kAccepted) << "the key is free";
  EXPECT_TRUE(Finish(*journal, 2, "a").ok());
  EXPECT_EQ(Begin(*journal, 2, "r").answer, "a");
  EXPECT_EQ(Finish(*journal, 3, "a").code(), absl::StatusCode::kDataLoss) << "nothing to finish";
}

TEST_F(JournalTest, ItCountsWhatItAcceptedAnsweredAgainAndRefused) {
  max_entries_ = 2;
  auto journal = Open();
  EXPECT_EQ(journal->figures().entries, 0u);
  EXPECT_GT(journal->figures().bytes, 0);
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kAccepted);
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kRunning);
  EXPECT_EQ(Begin(*journal, 2, "r").outcome, Outcome::kAccepted);
  EXPECT_EQ(Begin(*journal, 3, "r").error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Finish(*journal, 1, "a").ok());
  EXPECT_EQ(Begin(*journal, 1, "r").outcome, Outcome::kFinished);
  fails_ = true;
  EXPECT_EQ(Begin(*journal, 4, "r").outcome, Outcome::kFailed);
  const JournalFigures figures = journal->figures();
  EXPECT_EQ(figures.accepted, 2u);
  EXPECT_EQ(figures.again, 2u);
  EXPECT_EQ(figures.full, 1u);
  fails_ = false;
  const int64_t bytes = figures.bytes;
  journal.reset();
  const JournalFigures later = Open()->figures();
  EXPECT_GT(later.entries, 0u) << "it has them, but accepted none";
  EXPECT_EQ(later.accepted, 0u);
  EXPECT_LE(later.bytes, bytes);
}

}  // namespace
}  // namespace shoal::journal
