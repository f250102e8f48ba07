// One direction of a channel between two ranks: messages in order, each with a few words that say what it is. The slots
// lie half at the sender, half at the receiver, whose receives are posted ahead: a message leaves at once when one of
// them is free, and is held by its sender's slot until then. Internal to worker/comm/gloo; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/gloo_mesh.h"

namespace shoal::comm {

// In front of each payload.
struct alignas(32) GlooHeader {
  uint64_t kind;  // what both ends must agree on; the channel's own
  uint64_t note;
  uint64_t bytes;  // of the payload
};

// Memory for one message, known to Gloo.
struct GlooSlot {
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory;
  std::unique_ptr<GlooMesh::Buffer> buffer;

  GlooHeader& header() { return *reinterpret_cast<GlooHeader*>(memory.get()); }
  std::byte* payload() { return memory.get() + sizeof(GlooHeader); }
};

class GlooSender {
 public:
  GlooSender(GlooMesh* mesh, int peer, GlooTag tag, int slots, size_t bytes);

  int peer() const { return peer_; }
  // Waits for a free slot and returns its payload. Until Send(), the same one again.
  absl::StatusOr<std::byte*> Open(const char* what);
  // Hands over what was opened, `bytes` of it. Does not wait.
  absl::Status Send(uint64_t kind, uint64_t note, size_t bytes);

 private:
  GlooMesh* const mesh_;
  const int peer_;
  const GlooTag tag_;
  std::vector<GlooSlot> slots_;
  std::vector<bool> under_way_;  // [slots]
  size_t next_ = 0;
};

class GlooReceiver {
 public:
  struct Message {
    uint64_t kind, note;
    std::span<const std::byte> payload;
  };

  GlooReceiver(GlooMesh* mesh, int peer, GlooTag tag, int slots, size_t bytes);

  int peer() const { return peer_; }
  // Posts all receives. Once, before the peer sends.
  absl::Status Post();
  // The next message; the same one until Done().
  absl::StatusOr<Message> Next(const char* what);
  // Gives its slot back. A peer that is gone may have done its part before: a Next() that needs the slot says so.
  void Done();

 private:
  absl::Status Post(GlooSlot& slot);

  GlooMesh* const mesh_;
  const int peer_;
  const GlooTag tag_;
  const size_t bytes_;
  std::vector<GlooSlot> slots_;
  bool arrived_ = false;
  std::vector<absl::Status> posted_;  // [slots]
  size_t next_ = 0;
};

}  // namespace shoal::comm
