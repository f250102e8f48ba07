#include "coordinator/journal/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <random>

#include "tests/testing/temp_dir.h"

namespace shoal::journal {
namespace {

using Outcome = Begun::Outcome;
using testing::ReadFile;
using testing::TempDir;
using testing::WriteFile;

Digest Id(int n) {
  Digest digest{};
  digest[0] = static_cast<uint8_t>(n);
  digest[1] = static_cast<uint8_t>(n >> 8);
  digest[31] = 7;
  return digest;
}

class StoreTest : public ::testing::Test {
 protected:
  StoreOptions Options() {
    StoreOptions options;
    options.directory = dir_ / "state";
    options.now_s = [this] { return now_s_; };
    options.sync = [](int) { return 0; };  // thousands of files; what a crash of the machine leaves is not tested here
    return options;
  }
  // In place of the one before.
  Store& Open(const StoreOptions& options) {
    store_.reset();
    auto opened = Store::Open(options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = std::move(*opened);
    return *store_;
  }
  Store& Open() { return Open(Options()); }
  std::string file() const { return dir_ / "state/journal"; }

  // A journal with two ends and an entry that runs, in the order of its records.
  std::string Sample() {
    Store& store = Open();
    store.Begin(Id(1), Id(101), "first");
    store.Begin(Id(2), Id(102), "second");
    EXPECT_TRUE(store.Finish(Id(1), "one").ok());
    store.Begin(Id(3), Id(103), "third");
    EXPECT_TRUE(store.Finish(Id(2), "two").ok());
    EXPECT_TRUE(store.Sync().ok());
    store_.reset();
    return ReadFile(file());
  }
  static std::string Request(Store& store, const Digest& id) {
    absl::StatusOr<Again> again = store.BeginAgain(id, false);
    EXPECT_TRUE(again.ok()) << again.status();
    return again.ok() ? again->request : "";
  }
  // What of Sample's entries is there, as text. Whatever is there must be right.
  static std::string Present(Store& store) {
    std::string text;
    const char* const requests[] = {"first", "second", "third"};
    const char* const answers[] = {"one", "two", nullptr};
    for (int n = 1; n <= 3; ++n) {
      const std::vector<Digest> left = store.Unfinished();
      if (std::find(left.begin(), left.end(), Id(n)) != left.end()) {
        EXPECT_EQ(Request(store, Id(n)), requests[n - 1]);
        text += "r" + std::to_string(n);
        continue;
      }
      const size_t before = store.entries();
      const Begun begun = store.Begin(Id(n), Id(100 + n), "anew");
      if (begun.outcome == Outcome::kFinished) {
        EXPECT_EQ(begun.answer, answers[n - 1]);
        text += "f" + std::to_string(n);
      } else {
        EXPECT_EQ(begun.outcome, Outcome::kAccepted);
        EXPECT_EQ(store.entries(), before + 1);
      }
    }
    return text;
  }

  TempDir dir_;
  int64_t now_s_ = 1'700'000'000;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, TheChecksumIsTheStandardOne) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);            // the check value of CRC-32C
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720 B.4
}

TEST_F(StoreTest, AKeyBeginsOnceAndHasOneAnswer) {
  Store& store = Open();
  EXPECT_EQ(store.Begin(Id(1), Id(9), "a request").outcome, Outcome::kAccepted);
  EXPECT_EQ(store.Begin(Id(1), Id(9), "a request").outcome, Outcome::kRunning);
  EXPECT_EQ(store.Begin(Id(1), Id(8), "another").outcome, Outcome::kMismatch);
  EXPECT_EQ(Request(store, Id(1)), "a request");
  EXPECT_TRUE(store.Finish(Id(1), "an answer").ok());
  EXPECT_EQ(store.BeginAgain(Id(1), false).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store.Sync().ok());
  for (int round = 0; round < 3; ++round) {
    Store& again = Open();
    const Begun begun = again.Begin(Id(1), Id(9), "a request");
    EXPECT_EQ(begun.outcome, Outcome::kFinished);
    EXPECT_EQ(begun.answer, "an answer");
    EXPECT_EQ(again.Begin(Id(1), Id(8), "another").outcome, Outcome::kMismatch);
    EXPECT_TRUE(again.Unfinished().empty());
  }
}

TEST_F(StoreTest, WhatIsForgottenIsFree) {
  Store& store = Open();
  store.Begin(Id(1), Id(9), "a");
  store.Forget(Id(1));
  store.Forget(Id(2));
  EXPECT_EQ(Open().entries(), 0u);
  EXPECT_EQ(store_->Begin(Id(1), Id(8), "b").outcome, Outcome::kAccepted);
}

TEST_F(StoreTest, ATailTornAtAnyByteIsCutAndNothingBeforeIt) {
  const std::string whole = Sample();
  // Lengths at which a record ends, and what is there from then on.
  const size_t head = kBytesOffset;
  const size_t r1 = 8 + head + 5, r2 = r1 + head + 6, f1 = r2 + head + 3, r3 = f1 + head + 5, f2 = r3 + head + 3;
  ASSERT_EQ(whole.size(), f2);
  for (size_t size = 0; size <= whole.size(); ++size) {
    WriteFile(file(), whole.substr(0, size));
    Store& store = Open();
    const std::string expected = size < r1   ? ""
                                 : size < r2 ? "r1"
                                 : size < f1 ? "r1r2"
                                 : size < r3 ? "f1r2"
                                 : size < f2 ? "f1r2r3"
                                             : "f1f2r3";
    EXPECT_EQ(Present(store), expected) << size;
    // It goes on from there.
    EXPECT_EQ(store.Begin(Id(50), Id(51), "more").outcome, Outcome::kAccepted);
    EXPECT_TRUE(store.Sync().ok());
    EXPECT_EQ(Request(Open(), Id(50)), "more") << size;
    store_.reset();
  }
}

TEST_F(StoreTest, ADamagedByteLosesNothingBeforeItAndInventsNothing) {
  const std::string whole = Sample();
  for (size_t at = 8; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    WriteFile(file(), damaged);
    Store& store = Open();
    EXPECT_GT(store.cut_bytes(), 0) << at;
    EXPECT_NE(Present(store), "f1f2r3") << at;
    store_.reset();
  }
}

TEST_F(StoreTest, GarbageBehindTheRecordsIsCut) {
  const std::string whole = Sample();
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::string garbage(random() % 300 + 1, '\0');
    for (char& c : garbage) c = static_cast<char>(random());
    WriteFile(file(), whole + garbage);
    Store& store = Open();
    EXPECT_EQ(Present(store), "f1f2r3");
    EXPECT_EQ(store.cut_bytes(), static_cast<int64_t>(garbage.size()));
    store_.reset();
  }
}

TEST_F(StoreTest, AFileThatIsNoJournalIsLeftAlone) {
  WriteFile(file(), "#!/bin/sh\necho hello\n");
  EXPECT_EQ(Store::Open(Options()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadFile(file()), "#!/bin/sh\necho hello\n");
}

TEST_F(StoreTest, TwoCannotShareADirectory) {
  Open();
  const absl::Status second = Store::Open(Options()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(second.message()).find("in use"), std::string::npos);
  Open();  // the first has let go
}

TEST_F(StoreTest, OnlyItsOwnerMayReadIt) {
  Open();
  struct stat facts;
  ASSERT_EQ(stat(file().c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((dir_ / "state").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0700u);
}

TEST_F(StoreTest, TheNumberOfEntriesIsBoundedAndTheOldestAnswersGo) {
  StoreOptions options = Options();
  options.max_entries = 4;
  Store& store = Open(options);
  for (int n = 1; n <= 4; ++n) EXPECT_EQ(store.Begin(Id(n), Id(n), "r").outcome, Outcome::kAccepted);
  const Begun full = store.Begin(Id(5), Id(5), "r");
  EXPECT_EQ(full.outcome, Outcome::kFailed);
  EXPECT_EQ(full.error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store.Finish(Id(3), "third").ok());
  EXPECT_TRUE(store.Finish(Id(1), "first").ok());
  EXPECT_EQ(store.Begin(Id(5), Id(5), "r").outcome, Outcome::kAccepted);
  EXPECT_EQ(store.Begin(Id(1), Id(1), "r").answer, "first");  // the third had ended before it
  EXPECT_EQ(store.Begin(Id(3), Id(3), "r").outcome, Outcome::kAccepted);
  EXPECT_EQ(store.entries(), 4u);
}

TEST_F(StoreTest, TheFileIsBoundedAndWhatRunsIsKept) {
  StoreOptions options = Options();
  options.max_bytes = 20'000;
  Store& store = Open(options);
  store.Begin(Id(1000), Id(1), "runs all the time");
  for (int n = 0; n < 300; ++n) {
    ASSERT_EQ(store.Begin(Id(n), Id(n), std::string(300, 'r')).outcome, Outcome::kAccepted);
    ASSERT_TRUE(store.Finish(Id(n), std::string(500, 'a')).ok());
    ASSERT_LE(store.file_bytes(), options.max_bytes + 1000) << n;
    ASSERT_EQ(store.Begin(Id(n), Id(n), "r").answer, std::string(500, 'a'));
  }
  EXPECT_EQ(Request(store, Id(1000)), "runs all the time");
  EXPECT_LE(static_cast<int64_t>(std::filesystem::file_size(file())), options.max_bytes + 1000);
  EXPECT_EQ(store.Begin(Id(2000), Id(1), std::string(30'000, 'x')).error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Request(Open(options), Id(1000)), "runs all the time");
}

TEST_F(StoreTest, AnswersExpire) {
  StoreOptions options = Options();
  options.ttl_s = 100;
  Store& store = Open(options);
  store.Begin(Id(1), Id(1), "r");
  store.Begin(Id(2), Id(2), "runs");
  now_s_ += 60;
  EXPECT_TRUE(store.Finish(Id(1), "a").ok());
  now_s_ += 99;
  EXPECT_EQ(store.Begin(Id(1), Id(1), "r").outcome, Outcome::kFinished);
  now_s_ += 1;
  EXPECT_EQ(store.Begin(Id(1), Id(1), "r").outcome, Outcome::kAccepted);
  EXPECT_EQ(store.Begin(Id(2), Id(2), "runs").outcome, Outcome::kRunning) << "what runs does not expire";
  EXPECT_EQ(Open(options).Unfinished(), std::vector<Digest>{Id(1)}) << "but nobody begins it again after its time";
}

TEST_F(StoreTest, WhatRunsKeepsItsOrderWhenTheFileIsWrittenAnew) {
  Sample();
  Open().Begin(Id(0), Id(1), "later");
  EXPECT_TRUE(store_->Sync().ok());
  Open();
  EXPECT_EQ(Open().Unfinished(), (std::vector<Digest>{Id(3), Id(0)}));
  EXPECT_EQ(Present(*store_), "f1f2r3");
}

TEST_F(StoreTest, WhatIsSuspectedIsCountedAndGoesBehindTheOthers) {
  Store& store = Open();
  for (int n = 1; n <= 3; ++n) store.Begin(Id(n), Id(n), "request " + std::to_string(n));
  EXPECT_EQ(store.BeginAgain(Id(1), false)->suspects, 0);
  for (int life = 1; life <= 3; ++life) {
    Store& again = Open();
    const absl::StatusOr<Again> first = again.BeginAgain(Id(1), true);
    EXPECT_EQ(first->suspects, life);
    EXPECT_EQ(first->request, "request 1");
    EXPECT_EQ(again.BeginAgain(Id(2), false)->suspects, 0) << "after a peaceful end nobody is";
    EXPECT_EQ(again.Unfinished(), (std::vector<Digest>{Id(2), Id(3), Id(1)}));
    EXPECT_TRUE(again.Sync().ok());
  }
  EXPECT_EQ(Open().BeginAgain(Id(1), false)->suspects, 3);
}

TEST_F(StoreTest, ADiskThatTakesNoMoreIsAnErrorOfThatRequestOnly) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  Store& store = Open();
  ASSERT_EQ(store.Begin(Id(1), Id(1), "fits").outcome, Outcome::kAccepted);
  ASSERT_EQ(store.Begin(Id(2), Id(2), "fits too").outcome, Outcome::kAccepted);
  const int64_t size = store.file_bytes();
  const rlimit small{static_cast<rlim_t>(size + 50), old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Begun begun = store.Begin(Id(3), Id(3), std::string(100, 'x'));
  const absl::Status finished = store.Finish(Id(2), "an answer");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  EXPECT_EQ(begun.outcome, Outcome::kFailed);
  EXPECT_EQ(begun.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(begun.error.message()).find("File too large"), std::string::npos) << begun.error;
  EXPECT_EQ(finished.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(file())), size) << "no half record stays";
  // There is room again.
  EXPECT_TRUE(store.Finish(Id(1), "one").ok());
  EXPECT_EQ(store.Begin(Id(3), Id(3), "again").outcome, Outcome::kAccepted);
  EXPECT_TRUE(store.Sync().ok());
  EXPECT_EQ(Open().cut_bytes(), 0);
  EXPECT_EQ(store_->Unfinished(), (std::vector<Digest>{Id(2), Id(3)}));
}

TEST_F(StoreTest, AfterAFailedSyncTheFileIsWrittenAnew) {
  StoreOptions options = Options();
  bool fails = false;
  options.sync = [&](int) {
    errno = EIO;
    return fails ? -1 : 0;
  };
  Store& store = Open(options);
  store.Begin(Id(1), Id(1), "safe");
  EXPECT_TRUE(store.Sync().ok());
  store.Begin(Id(2), Id(2), "unsure");
  fails = true;
  EXPECT_EQ(store.Sync().code(), absl::StatusCode::kUnavailable);
  store.Undo(Id(2));
  EXPECT_EQ(store.Begin(Id(3), Id(3), "r").outcome, Outcome::kFailed) << "the disk is still bad";
  fails = false;
  EXPECT_EQ(store.Begin(Id(3), Id(3), "r").outcome, Outcome::kAccepted);
  EXPECT_TRUE(store.Sync().ok());
  EXPECT_EQ(Open(options).Unfinished(), (std::vector<Digest>{Id(1), Id(3)}));
}

}  // namespace
}  // namespace shoal::journal
