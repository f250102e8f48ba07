// Memory that the devices of a stage's ranks reach, for sums in one operation (kernels/ops/all_reduce.h). A rank makes
// an area, publishes an offer, and maps the areas of the others; all are of one epoch, and zeroed when it begins. The
// rank's thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "kernels/ops/accelerator.h"
#include "worker/comm/descriptor_port.h"

namespace shoal::comm {

// What the others need to know of a rank's area.
struct PeerOffer {
  std::string host;  // DescriptorHost()
  std::string port;  // DescriptorPort's address
  ops::Accelerator::DeviceId device = {};
  uint64_t bytes = 0;  // of the area

  bool operator==(const PeerOffer&) const = default;
};

class PeerMemory {
 public:
  // This rank's area, zeroed. FailedPrecondition: the accelerator has no such operation; Unavailable, ResourceExhausted
  // or the device's words: there can be none.
  static absl::StatusOr<std::unique_ptr<PeerMemory>> Create(ops::Accelerator* accelerator);
  ~PeerMemory();  // nothing of it is under way any more
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  const PeerOffer& offer() const { return offer_; }

  // Once. Hands the area to all tensor ranks and maps theirs. `offers`: by tensor rank, of this host; `index`: the own
  // one. Waits for the others until `deadline`; `check` ends it. FailedPrecondition: a device does not reach another
  // one's memory. After an error nothing but destruction may follow.
  absl::Status Map(std::span<const PeerOffer> offers, int index, TimeNs deadline,
                   const std::function<absl::Status()>& check);

  // After Map, on all ranks alike. Enqueued; data[i] = sum over the ranks. At most PeerAllReduceBytes().
  absl::Status AllReduceSum(ops::Acts data, int64_t count);

  // What waits on the device for others ends, now and later; what it leaves in memory is undefined.
  void Abort();

 private:
  explicit PeerMemory(ops::Accelerator* accelerator, DescriptorPort port)
      : accelerator_(accelerator), port_(std::move(port)) {}
  absl::Status Make();

  ops::Accelerator* const accelerator_;
  DescriptorPort port_;
  PeerOffer offer_;
  ops::Accelerator::SharedHandle own_;  // its descriptor, until all have it
  std::vector<void*> areas_;            // by tensor rank; null: not mapped
  int index_ = 0;
  void* own_area_ = nullptr;
  uint32_t* rounds_ = nullptr;  // on the device
  uint32_t* abort_ = nullptr;   // pinned
};

}  // namespace shoal::comm
