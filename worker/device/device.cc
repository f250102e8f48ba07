// Tested by: tests/device/host_device_test.cc
#include "worker/device/device.h"

#include <utility>

namespace shoal::device {

absl::Status UploadBuffer::PutBytes(const void* from, size_t bytes) {
  if (bytes > memory_.size()) {
    auto larger = device_->Allocate(2 * bytes);
    if (!larger.ok()) return larger.status();
    outgrown_.push_back(std::exchange(memory_, std::move(*larger)));
  }
  return device_->Upload(memory_.data(), from, bytes);
}

}  // namespace shoal::device
