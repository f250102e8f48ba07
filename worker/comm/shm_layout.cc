#include "worker/comm/shm_layout.h"

#include <algorithm>

#include "worker/comm/group_shape.h"

namespace shoal::comm {
namespace {

constexpr size_t kLine = 64;
// One slot of the tensor channel. Larger messages go in pieces: two slots of this size for each of a few ranks still
// fit a last-level cache, and a piece is long against the cost of meeting.
constexpr size_t kLargestTensorSlot = 256 * 1024;
constexpr size_t kSmallestTensorSlot = 16 * 1024;

size_t Lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

ShmLayout::ShmLayout(const GroupShape& s) {
  const size_t ranks = static_cast<size_t>(s.tp) * s.pp;
  const size_t activation = Lines(static_cast<size_t>(s.max_activation_bytes));
  attached = Lines(sizeof(ShmHeader));

  tensor = attached + Lines(ranks * sizeof(std::atomic<uint32_t>));
  tensor_slot = s.tp == 1 ? 0 : std::clamp(activation, kSmallestTensorSlot, kLargestTensorSlot);
  tensor_stride = sizeof(Signal) + 2 * tensor_slot;

  links = tensor + ranks * tensor_stride;
  link_slot = activation;
  link_stride = 2 * sizeof(Signal) + 2 * link_slot;

  mailbox = links + static_cast<size_t>(s.pp - 1) * s.tp * link_stride;
  mail_slots = mailbox + (1 + s.tp) * sizeof(Signal);
  mail_stride = Lines(sizeof(MailSlot) + s.max_samples * sizeof(int32_t));
  bytes = mail_slots + s.mailbox_slots * mail_stride;

  shape_hash = ShapeHash(s);
}

}  // namespace shoal::comm
