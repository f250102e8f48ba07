// As much of a CUDA plug-in as the way to its NCCL takes.
#include "worker/comm/nccl_api.h"

namespace {

class NoNccl final : public shoal::comm::NcclApi {
 public:
  absl::StatusOr<std::string> Version() override { return absl::FailedPreconditionError("a fake"); }
  absl::StatusOr<shoal::comm::NcclId> MakeId() override { return absl::InternalError("a fake"); }
  absl::StatusOr<std::unique_ptr<shoal::comm::NcclComm>> Join(const shoal::comm::NcclId&, const CommOptions&) override {
    return absl::InternalError("a fake");
  }
  void Abort(std::span<shoal::comm::NcclComm* const>) override {}
  absl::StatusOr<std::unique_ptr<shoal::comm::NcclQueue>> MakeQueue(void*, int) override {
    return absl::InternalError("a fake");
  }
};

}  // namespace

shoal::comm::NcclApi* shoal_nccl() {
  static NoNccl fake;
  return &fake;
}
