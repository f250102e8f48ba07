#include "common/plan/ring.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/rng.h"

namespace shoal::plan {
namespace {

struct Memory {
  explicit Memory(size_t capacity) : size(RingBytes(capacity)) {
    data = static_cast<std::byte*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~Memory() { munmap(data, size); }
  std::span<std::byte> span() { return {data, size}; }
  std::byte* data;
  size_t size;
};

// A payload of varying length whose content tells its number.
std::string Payload(uint64_t step) {
  std::string s(RandomBits(7, 0, step) % 900, static_cast<char>('a' + step % 26));
  return std::to_string(step) + ":" + s;
}

TEST(Ring, EveryReaderSeesEveryRecordInOrder) {
  Memory memory(8192);
  auto writer = RingWriter::Create(memory.span());
  ASSERT_TRUE(writer.ok());
  constexpr uint64_t kRecords = 20000;
  std::vector<std::thread> readers;
  std::atomic<int> good{0};
  for (int i = 0; i < 3; ++i) {
    const int slot = writer->AttachReader().value();
    readers.emplace_back([&, slot] {
      auto reader = RingReader::Attach(memory.span(), slot).value();
      for (uint64_t step = 1; step <= kRecords; ++step) {
        auto record = reader.Next(-1, nullptr);
        if (!record.ok() || record->stamp.step != step || record->payload != Payload(step)) return;
      }
      good.fetch_add(1);
    });
  }
  for (uint64_t step = 1; step <= kRecords;) {
    const absl::Status s = writer->Append(RecordKind::kPlan, {1, 2, step}, Payload(step));
    if (s.ok()) {
      ++step;
    } else {
      ASSERT_EQ(s.code(), absl::StatusCode::kResourceExhausted) << s;
      std::this_thread::yield();
    }
  }
  for (auto& t : readers) t.join();
  EXPECT_EQ(good.load(), 3);
}

TEST(Ring, CarriesStampKindAndTime) {
  Memory memory(4096);
  auto writer = RingWriter::Create(memory.span()).value();
  auto reader = RingReader::Attach(memory.span(), writer.AttachReader().value()).value();
  EXPECT_FALSE(reader.HasNext());
  const TimeNs before = RealClock().Now();
  ASSERT_TRUE(writer.Append(RecordKind::kResult, {9, 8, 7}, "x").ok());
  EXPECT_TRUE(reader.HasNext());
  const Record r = reader.Next(0, nullptr).value();
  EXPECT_EQ(r.kind, RecordKind::kResult);
  EXPECT_EQ(r.stamp, (Stamp{9, 8, 7}));
  EXPECT_GE(r.written, before);
  EXPECT_FALSE(reader.HasNext());
}

TEST(Ring, ASlowReaderHoldsBackTheWriterUntilDetached) {
  Memory memory(4096);
  auto writer = RingWriter::Create(memory.span()).value();
  const int dead = writer.AttachReader().value();
  const std::string payload(1000, 'p');
  absl::Status status;
  int written = 0;
  while ((status = writer.Append(RecordKind::kPlan, {}, payload)).ok()) ++written;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(written, 3);
  writer.DetachReader(dead);
  EXPECT_TRUE(writer.Append(RecordKind::kPlan, {}, payload).ok());
}

TEST(Ring, RefusesWhatCannotFit) {
  Memory memory(4096);
  auto writer = RingWriter::Create(memory.span()).value();
  EXPECT_EQ(writer.Append(RecordKind::kPlan, {}, std::string(3000, 'x')).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Ring, TimesOutAndStops) {
  Memory memory(4096);
  auto writer = RingWriter::Create(memory.span()).value();
  auto reader = RingReader::Attach(memory.span(), writer.AttachReader().value()).value();
  EXPECT_EQ(reader.Next(kMillisecond, nullptr).status().code(), absl::StatusCode::kDeadlineExceeded);
  std::atomic<bool> stop{false};
  std::thread stopper([&] {
    stop.store(true);
    reader.Wake();
  });
  EXPECT_EQ(reader.Next(-1, &stop).status().code(), absl::StatusCode::kCancelled);
  stopper.join();
}

TEST(Ring, RefusesForeignOrDamagedMemory) {
  Memory memory(4096);
  EXPECT_EQ(RingReader::Attach(memory.span(), 0).status().code(), absl::StatusCode::kDataLoss);
  auto writer = RingWriter::Create(memory.span()).value();
  const int slot = writer.AttachReader().value();
  EXPECT_EQ(RingReader::Attach(memory.span(), slot + 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RingReader::Attach(memory.span().first(RingBytes(0) + 8), slot).status().code(),
            absl::StatusCode::kDataLoss);
  auto reader = RingReader::Attach(memory.span(), slot).value();
  ASSERT_TRUE(writer.Append(RecordKind::kPlan, {}, "payload").ok());
  std::byte* record = memory.data + RingBytes(0);
  const uint32_t huge = 1u << 30;
  std::memcpy(record + 4, &huge, sizeof huge);  // its length
  EXPECT_EQ(reader.Next(0, nullptr).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Ring, WorksBetweenProcesses) {
  Memory memory(1 << 16);
  auto writer = RingWriter::Create(memory.span()).value();
  const int slot = writer.AttachReader().value();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto reader = RingReader::Attach(memory.span(), slot).value();
    for (uint64_t step = 1; step <= 1000; ++step) {
      auto record = reader.Next(10 * kSecond, nullptr);
      if (!record.ok() || record->payload != Payload(step)) _exit(1);
    }
    _exit(0);
  }
  for (uint64_t step = 1; step <= 1000;) {
    if (writer.Append(RecordKind::kPlan, {0, 0, step}, Payload(step)).ok()) ++step;
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace shoal::plan
