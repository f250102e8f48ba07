// Where everything lies in a group's segment. A pure function of the shape, so that every rank computes the same.
//   header | attached[ranks] | per stage and tensor rank: signal, 2 slots | per border and tensor rank: sent, taken, 2
//   slots | mailbox: posted, taken[tp], slots
#pragma once

#include <cstddef>
#include <cstdint>

#include "worker/comm/wait.h"

namespace shoal::comm {

struct ShmHeader {
  static constexpr uint64_t kMagic = 0x314d48534c414f48;  // "HOALSHM1"
  std::atomic<uint64_t> magic;
  std::atomic<uint64_t> generation;  // + 1; 0: nobody has attached yet
  std::atomic<uint64_t> shape;       // hash; 0: nobody has attached yet
};

// A message slot of the mailbox; `max_samples` ids follow.
struct MailSlot {
  uint64_t step;
  uint32_t count;
  uint32_t unused;
};

struct ShmLayout {
  explicit ShmLayout(const GroupShape& shape);

  size_t attached = 0;                                    // std::atomic<uint32_t> per rank
  size_t tensor = 0, tensor_stride = 0, tensor_slot = 0;  // per rank; bytes of one slot
  size_t links = 0, link_stride = 0, link_slot = 0;       // link (border, t) = border * tp + t
  size_t mailbox = 0, mail_slots = 0, mail_stride = 0;
  size_t bytes = 0;
  uint64_t shape_hash = 0;
};

}  // namespace shoal::comm
