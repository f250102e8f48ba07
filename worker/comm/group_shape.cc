// Tested by: tests/comm/shm_test.cc
#include "worker/comm/group_shape.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"

namespace shoal::comm {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) { return RandomBits(hash, value, 0x5368617065ull); }

}  // namespace

absl::Status CheckShape(const GroupShape& s, int rank) {
  if (s.tp < 1 || s.pp < 1 || rank < 0 || rank >= s.tp * s.pp || s.max_activation_bytes < 0 || s.max_samples < 0) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " of a group of ", s.tp, " x ", s.pp));
  }
  if (s.mailbox_slots < 1 || !std::has_single_bit(static_cast<unsigned>(s.mailbox_slots))) {
    return absl::InvalidArgumentError(absl::StrCat(s.mailbox_slots, " mailbox slots: must be a power of two"));
  }
  return absl::OkStatus();
}

uint64_t ShapeHash(const GroupShape& s) {
  return Mix(Mix(Mix(Mix(Mix(1, s.tp), s.pp), s.max_activation_bytes), s.max_samples), s.mailbox_slots) | 1;
}

}  // namespace shoal::comm
