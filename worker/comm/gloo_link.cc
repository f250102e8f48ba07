// Tested by: tests/comm/channels_test.cc
#include "worker/comm/gloo_link.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

constexpr size_t kAlignment = 64;

std::vector<GlooSlot> MakeSlots(GlooMesh* mesh, int slots, size_t bytes) {
  const size_t whole = (sizeof(GlooHeader) + bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::vector<GlooSlot> made(slots);
  for (GlooSlot& slot : made) {
    slot.memory.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, whole)));
    SHOAL_CHECK(slot.memory != nullptr);
    slot.buffer = mesh->Register(slot.memory.get(), whole);
  }
  return made;
}

}  // namespace

GlooSender::GlooSender(GlooMesh* mesh, int peer, GlooTag tag, int slots, size_t bytes)
    : mesh_(mesh), peer_(peer), tag_(tag), slots_(MakeSlots(mesh, slots, bytes)), under_way_(slots, false) {}

absl::StatusOr<std::byte*> GlooSender::Open(const char* what) {
  if (under_way_[next_]) {
    SHOAL_RETURN_IF_ERROR(mesh_->Wait(*slots_[next_].buffer, GlooMesh::Way::kSent, what, peer_));
    under_way_[next_] = false;
  }
  return slots_[next_].payload();
}

absl::Status GlooSender::Send(uint64_t kind, uint64_t note, size_t bytes) {
  slots_[next_].header() = {kind, note, bytes};
  SHOAL_RETURN_IF_ERROR(mesh_->Send(*slots_[next_].buffer, peer_, tag_, sizeof(GlooHeader) + bytes));
  under_way_[next_] = true;
  next_ = (next_ + 1) % slots_.size();
  return absl::OkStatus();
}

GlooReceiver::GlooReceiver(GlooMesh* mesh, int peer, GlooTag tag, int slots, size_t bytes)
    : mesh_(mesh), peer_(peer), tag_(tag), bytes_(bytes), slots_(MakeSlots(mesh, slots, bytes)), posted_(slots) {}

absl::Status GlooReceiver::Post(GlooSlot& slot) {
  return mesh_->PostReceive(*slot.buffer, peer_, tag_, sizeof(GlooHeader) + bytes_);
}

absl::Status GlooReceiver::Post() {
  for (GlooSlot& slot : slots_) SHOAL_RETURN_IF_ERROR(Post(slot));
  return absl::OkStatus();
}

absl::StatusOr<GlooReceiver::Message> GlooReceiver::Next(const char* what) {
  GlooSlot& slot = slots_[next_];
  if (!arrived_) {
    SHOAL_RETURN_IF_ERROR(posted_[next_]);
    SHOAL_RETURN_IF_ERROR(mesh_->Wait(*slot.buffer, GlooMesh::Way::kReceived, what, peer_));
    arrived_ = true;
  }
  const GlooHeader& header = slot.header();
  if (header.bytes > bytes_) {
    return absl::InternalError(
        absl::StrCat("ranks have diverged: rank ", peer_, " sent ", header.bytes, " bytes where ", bytes_, " fit"));
  }
  return Message{header.kind, header.note, {slot.payload(), static_cast<size_t>(header.bytes)}};
}

void GlooReceiver::Done() {
  arrived_ = false;
  const size_t number = std::exchange(next_, (next_ + 1) % slots_.size());
  posted_[number] = Post(slots_[number]);
}

}  // namespace shoal::comm
