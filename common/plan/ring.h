// A ring of records in shared memory: one writer, up to kMaxReaders readers that each see every record in order. Agents
// write plans once for all their ranks; each rank writes its results back through a ring of its own. Crash-safe for the
// others: a dead reader is detached by the writer's side, a dead writer leaves only whole records.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/plan/step_plan.h"

namespace shoal::plan {

inline constexpr int kMaxRingReaders = 64;

// Kinds of records. Anything else is refused.
// kAddress: what a rank publishes; kConnect: what all ranks of the group have published.
enum class RecordKind : uint32_t { kSetup = 1, kPlan = 2, kResult = 3, kStop = 4, kAddress = 5, kConnect = 6 };

struct Record {
  RecordKind kind;
  Stamp stamp;
  TimeNs written;       // CLOCK_MONOTONIC, when the writer published it
  std::string payload;  // copied out: the slot may be overwritten after Next() returns
};

// Bytes of memory for `capacity` bytes of records.
size_t RingBytes(size_t capacity);

class RingWriter {
 public:
  // Formats the memory. Its size fixes the capacity; it stays owned by the caller and must outlive this.
  static absl::StatusOr<RingWriter> Create(std::span<std::byte> memory);

  // Appends one record and wakes sleeping readers. ResourceExhausted when the slowest attached reader has left no room
  // (nothing is written), InvalidArgument when the payload exceeds half of the capacity.
  absl::Status Append(RecordKind kind, const Stamp& stamp, std::string_view payload);

  // A reader slot that starts at the present end. Detach when its process is gone, so that it holds back nobody.
  absl::StatusOr<int> AttachReader();
  void DetachReader(int reader);

 private:
  explicit RingWriter(std::byte* memory) : memory_(memory) {}
  std::byte* memory_;
};

class RingReader {
 public:
  // Checks the header (magic, version, capacity against the memory's size).
  static absl::StatusOr<RingReader> Attach(std::span<std::byte> memory, int reader);

  // The next record: spins briefly, then sleeps. Cancelled as soon as *stop becomes true and the ring is empty (the
  // waker must call Wake()); DeadlineExceeded after `timeout` (< 0: none); DataLoss when a record is malformed.
  absl::StatusOr<Record> Next(DurationNs timeout, const std::atomic<bool>* stop);
  // Whether a record is there, without taking it. For "has the next plan arrived".
  bool HasNext() const;
  void Wake();

 private:
  RingReader(std::byte* memory, int reader) : memory_(memory), reader_(reader) {}
  absl::StatusOr<Record> Take();

  std::byte* memory_;
  int reader_;
};

}  // namespace shoal::plan
