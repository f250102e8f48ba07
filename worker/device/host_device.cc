// Tested by: tests/device/host_device_test.cc
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/ops/backends.h"
#include "worker/device/device.h"

namespace shoal::device {
namespace {

constexpr size_t kAlignment = 256;

class HostDevice final : public Device {
 public:
  HostDevice(const ops::OpTable* table, int threads) : table_(table), stream_(ops::MakeCpuStream(threads)) {}

  const ops::OpTable& table() const override { return *table_; }
  ops::Stream& stream() override { return *stream_; }
  bool is_host() const override { return true; }

  // Pages are touched when first used, so a rarely used size costs address space only.
  absl::StatusOr<Memory> Allocate(size_t bytes) override {
    void* const data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    if (data == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes >> 20, " MiB"));
    return Memory(data, bytes, std::free);
  }
  absl::StatusOr<Memory> AllocateHost(size_t bytes) override { return Allocate(bytes); }
  absl::Status Upload(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }
  absl::Status Download(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }
  absl::Status Fetch(void* to, const void* from, size_t bytes) override { return Download(to, from, bytes); }
  absl::StatusOr<uint64_t> Mark() override { return ++marks_; }
  absl::StatusOr<bool> Reached(uint64_t) override { return true; }
  absl::Status Milestone() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> Record(const std::function<absl::Status()>&) override {
    return absl::FailedPreconditionError("a CPU records no graphs");
  }
  absl::Status Launch(ops::AcceleratorGraph&) override {
    return absl::FailedPreconditionError("a CPU launches no graphs");
  }
  absl::Status ProvokeFault() override {
    return absl::FailedPreconditionError("a CPU ends the process at an illegal access");
  }

 private:
  const ops::OpTable* const table_;
  const std::unique_ptr<ops::Stream> stream_;
  uint64_t marks_ = 0;
};

}  // namespace

std::unique_ptr<Device> MakeHostDevice(const ops::OpTable* table, int threads) {
  return std::make_unique<HostDevice>(table, threads);
}

}  // namespace shoal::device
