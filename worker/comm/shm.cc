#include "worker/comm/shm.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/group_shape.h"
#include "worker/comm/shm_channels.h"

namespace shoal::comm {
namespace {

// The first rank to come says what the segment is; all others must say the same.
absl::Status Agree(std::atomic<uint64_t>& word, uint64_t value, const char* what) {
  uint64_t seen = 0;
  if (word.compare_exchange_strong(seen, value) || seen == value) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the channel segment is of another ", what));
}

absl::Status JoinSegment(const ShmLayout& layout, int rank, uint64_t generation, std::byte* memory) {
  auto* header = reinterpret_cast<ShmHeader*>(memory);
  SHOAL_RETURN_IF_ERROR(Agree(header->magic, ShmHeader::kMagic, "kind"));
  SHOAL_RETURN_IF_ERROR(Agree(header->generation, generation + 1, "generation"));
  SHOAL_RETURN_IF_ERROR(Agree(header->shape, layout.shape_hash, "shape"));
  auto* attached = reinterpret_cast<std::atomic<uint32_t>*>(memory + layout.attached);
  if (attached[rank].exchange(1) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", rank, " has joined this generation before"));
  }
  return absl::OkStatus();
}

}  // namespace

ShmRank::ShmRank(const GroupShape& group, int rank, std::byte* segment, const AbortFlag* abort, WaitNote* note)
    : shape(group),
      layout(group),
      stage(rank / group.tp),
      tensor_index(rank % group.tp),
      memory(segment),
      waiter(abort, &stats, group.tp * group.pp, note) {}

size_t ShmSegmentBytes(const GroupShape& shape) { return ShmLayout(shape).bytes; }

absl::StatusOr<RankComm> MakeShmRank(const GroupShape& shape, int rank, uint64_t generation,
                                     std::span<std::byte> memory, const AbortFlag* abort, WaitNote* note) {
  SHOAL_RETURN_IF_ERROR(CheckShape(shape, rank));
  auto state = std::make_shared<ShmRank>(shape, rank, memory.data(), abort, note);
  if (memory.size() < state->layout.bytes || reinterpret_cast<uintptr_t>(memory.data()) % alignof(Signal) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a channel segment of ", memory.size(), " bytes, ", state->layout.bytes, " are needed"));
  }
  SHOAL_RETURN_IF_ERROR(JoinSegment(state->layout, rank, generation, memory.data()));

  RankComm comm;
  comm.tensor = MakeShmTensor(state);
  if (state->stage + 1 < shape.pp) comm.next = MakeShmSender(state);
  if (state->stage > 0) comm.previous = MakeShmReceiver(state);
  if (rank == (shape.pp - 1) * shape.tp) comm.mailbox_out = MakeShmMailbox(state);
  if (state->stage == 0) comm.mailbox_in = MakeShmMailbox(state);
  comm.stats = &state->stats;
  comm.keep_alive = std::move(state);
  return comm;
}

}  // namespace shoal::comm
