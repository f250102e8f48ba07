#include "common/plan/ring.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/futex.h"

namespace shoal::plan {
namespace {

constexpr uint64_t kMagic = 0x53484f414c524e31;  // "SHOALRN1"
constexpr size_t kAlign = 8;
constexpr DurationNs kSpin = 20 * kMicrosecond;  // about half of what a wake-up from sleep costs on a virtual machine

// Positions count bytes since creation; a record lies at position % capacity and never wraps: a pad record fills the
// end.
struct ReaderSlot {
  alignas(64) std::atomic<uint64_t> position;
  std::atomic<uint32_t> attached;
};
struct Header {
  uint64_t magic;
  uint64_t capacity;
  alignas(64) std::atomic<uint64_t> head;
  std::atomic<uint32_t> bell;  // futex word: changes with every record and every Wake()
  std::atomic<uint32_t>
      sleepers;  // readers that may be asleep; too high after one was killed, which costs a system call
  ReaderSlot readers[kMaxRingReaders];
};

constexpr uint32_t kPad = 0;  // kind of a filler record
struct RecordHeader {
  uint32_t kind;
  uint32_t length;  // of the payload, without padding
  uint64_t epoch, incarnation, step;
  int64_t written;
};
static_assert(sizeof(RecordHeader) % kAlign == 0 && sizeof(Header) % 64 == 0);
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

Header* HeaderOf(std::byte* memory) { return std::launder(reinterpret_cast<Header*>(memory)); }
std::byte* DataOf(std::byte* memory) { return memory + sizeof(Header); }
uint64_t RoundUp(uint64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

TimeNs Now() { return RealClock().Now(); }

// The position of the slowest attached reader; `head` when there is none.
uint64_t SlowestReader(Header* h, uint64_t head) {
  uint64_t slowest = head;
  for (auto& r : h->readers) {
    if (r.attached.load(std::memory_order_acquire) == 0) continue;
    slowest = std::min(slowest, r.position.load(std::memory_order_acquire));
  }
  return slowest;
}

void PutRecord(std::byte* at, uint32_t kind, const Stamp& stamp, TimeNs written, std::string_view payload) {
  const RecordHeader header{kind,   static_cast<uint32_t>(payload.size()), stamp.epoch, stamp.incarnation, stamp.step,
                            written};
  std::memcpy(at, &header, sizeof header);
  if (!payload.empty()) std::memcpy(at + sizeof header, payload.data(), payload.size());
}

}  // namespace

size_t RingBytes(size_t capacity) { return sizeof(Header) + RoundUp(capacity); }

absl::StatusOr<RingWriter> RingWriter::Create(std::span<std::byte> memory) {
  if (memory.size() < sizeof(Header) + 4096) {
    return absl::InvalidArgumentError(absl::StrCat("a ring needs more than ", memory.size(), " bytes"));
  }
  auto* h = new (memory.data()) Header{};
  h->capacity = (memory.size() - sizeof(Header)) / kAlign * kAlign;
  h->magic = kMagic;
  return RingWriter(memory.data());
}

absl::Status RingWriter::Append(RecordKind kind, const Stamp& stamp, std::string_view payload) {
  Header* h = HeaderOf(memory_);
  const uint64_t need = sizeof(RecordHeader) + RoundUp(payload.size());
  if (need > h->capacity / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a record of ", payload.size(), " bytes in a ring of ", h->capacity));
  }
  const uint64_t head = h->head.load(std::memory_order_relaxed);
  const uint64_t to_end = h->capacity - head % h->capacity;
  const uint64_t pad = need > to_end ? to_end : 0;
  if (head + pad + need - SlowestReader(h, head) > h->capacity) {
    return absl::ResourceExhaustedError("the slowest reader of a ring has left no room");
  }
  std::byte* data = DataOf(memory_);
  // A gap too small for a header is skipped by readers without one.
  if (pad >= sizeof(RecordHeader)) PutRecord(data + head % h->capacity, kPad, {}, 0, {});
  PutRecord(data + (head + pad) % h->capacity, static_cast<uint32_t>(kind), stamp, Now(), payload);
  h->head.store(head + pad + need, std::memory_order_release);
  h->bell.fetch_add(1, std::memory_order_seq_cst);
  if (h->sleepers.load(std::memory_order_seq_cst) != 0) FutexWakeAll(&h->bell);
  return absl::OkStatus();
}

absl::StatusOr<int> RingWriter::AttachReader() {
  Header* h = HeaderOf(memory_);
  for (int i = 0; i < kMaxRingReaders; ++i) {
    if (h->readers[i].attached.load(std::memory_order_acquire) != 0) continue;
    h->readers[i].position.store(h->head.load(std::memory_order_relaxed), std::memory_order_relaxed);
    h->readers[i].attached.store(1, std::memory_order_release);
    return i;
  }
  return absl::ResourceExhaustedError(absl::StrCat("a ring has at most ", kMaxRingReaders, " readers"));
}

void RingWriter::DetachReader(int reader) {
  SHOAL_CHECK(reader >= 0 && reader < kMaxRingReaders);
  HeaderOf(memory_)->readers[reader].attached.store(0, std::memory_order_release);
}

absl::StatusOr<RingReader> RingReader::Attach(std::span<std::byte> memory, int reader) {
  if (memory.size() < sizeof(Header)) return absl::DataLossError("too small for a ring");
  const Header* h = HeaderOf(memory.data());
  if (h->magic != kMagic || h->capacity == 0 || h->capacity % kAlign != 0 ||
      h->capacity > memory.size() - sizeof(Header)) {
    return absl::DataLossError("not a ring of this build");
  }
  if (reader < 0 || reader >= kMaxRingReaders || h->readers[reader].attached.load() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("reader ", reader, " is not attached to this ring"));
  }
  return RingReader(memory.data(), reader);
}

bool RingReader::HasNext() const {
  const Header* h = HeaderOf(memory_);
  return h->head.load(std::memory_order_acquire) != h->readers[reader_].position.load(std::memory_order_relaxed);
}

void RingReader::Wake() {
  Header* h = HeaderOf(memory_);
  h->bell.fetch_add(1, std::memory_order_seq_cst);
  FutexWakeAll(&h->bell);
}

absl::StatusOr<Record> RingReader::Next(DurationNs timeout, const std::atomic<bool>* stop) {
  Header* h = HeaderOf(memory_);
  const TimeNs begin = Now();
  while (!HasNext()) {
    if (stop != nullptr && stop->load(std::memory_order_acquire)) return absl::CancelledError("told to stop");
    const DurationNs waited = Now() - begin;
    if (timeout >= 0 && waited >= timeout) return absl::DeadlineExceededError("no record in the ring");
    if (waited < kSpin) {
      CpuRelax();
      continue;
    }
    h->sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t bell = h->bell.load(std::memory_order_seq_cst);
    const bool stopped = stop != nullptr && stop->load(std::memory_order_acquire);
    if (!HasNext() && !stopped) FutexWait(&h->bell, bell, timeout < 0 ? -1 : timeout - waited);
    h->sleepers.fetch_sub(1, std::memory_order_seq_cst);
  }
  return Take();
}

absl::StatusOr<Record> RingReader::Take() {
  Header* h = HeaderOf(memory_);
  const uint64_t head = h->head.load(std::memory_order_acquire);
  uint64_t at = h->readers[reader_].position.load(std::memory_order_relaxed);
  RecordHeader header;
  const auto read_header = [&] { std::memcpy(&header, DataOf(memory_) + at % h->capacity, sizeof header); };
  uint64_t to_end = h->capacity - at % h->capacity;
  if (to_end >= sizeof header) read_header();
  if (to_end < sizeof header || header.kind == kPad) {
    at += to_end;
    to_end = h->capacity;
    if (at >= head) return absl::DataLossError("a ring ends in padding");
    read_header();
  }
  const uint64_t need = sizeof header + RoundUp(header.length);
  if (need > to_end || at + need > head || header.kind < static_cast<uint32_t>(RecordKind::kSetup) ||
      header.kind > static_cast<uint32_t>(RecordKind::kConnect)) {
    return absl::DataLossError(
        absl::StrCat("a malformed record in a ring: kind ", header.kind, ", ", header.length, " bytes"));
  }
  const char* payload = reinterpret_cast<const char*>(DataOf(memory_) + at % h->capacity + sizeof header);
  Record record{static_cast<RecordKind>(header.kind),
                {header.epoch, header.incarnation, header.step},
                header.written,
                std::string(payload, header.length)};
  h->readers[reader_].position.store(at + need, std::memory_order_release);
  return record;
}

}  // namespace shoal::plan
