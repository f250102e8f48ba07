// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated; the driver's events in `steps` on a device)
#include "tests/gpu/device_events.h"

#include <dlfcn.h>

#include <chrono>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::gpu {
namespace {

// As cuda.h declares them: 0 is CUDA_SUCCESS, and flags 0 are CU_EVENT_DEFAULT, which keeps the time.
using Event = void*;
struct Driver {
  int (*create)(Event*, unsigned);
  int (*destroy)(Event);
  int (*record)(Event, void* stream);
  int (*synchronise)(Event);
  int (*elapsed)(float* milliseconds, Event from, Event to);
};

absl::StatusOr<Driver> OpenDriver() {
  void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::UnavailableError(absl::StrCat("no driver: ", ::dlerror()));
  absl::Status status;
  const auto find = [&](auto* function, const char* name) {
    void* const found = ::dlsym(library, name);
    if (found == nullptr) status = absl::UnavailableError(absl::StrCat("the driver has no ", name));
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(found);
  };
  Driver driver = {};
  find(&driver.create, "cuEventCreate");
  find(&driver.destroy, "cuEventDestroy_v2");
  find(&driver.record, "cuEventRecord");
  find(&driver.synchronise, "cuEventSynchronize");
  find(&driver.elapsed, "cuEventElapsedTime");
  if (!status.ok()) return status;
  return driver;
}

absl::Status Check(int result, const char* what) {
  return result == 0 ? absl::OkStatus() : absl::InternalError(absl::StrCat(what, ": CUDA error ", result));
}

class CudaEvents final : public DeviceEvents {
 public:
  CudaEvents(const Driver& driver, void* stream) : driver_(driver), stream_(stream) {}
  ~CudaEvents() override {
    for (const Event event : events_) (void)driver_.destroy(event);
  }

  absl::Status Record() override {
    Event event = nullptr;
    SHOAL_RETURN_IF_ERROR(Check(driver_.create(&event, 0), "cuEventCreate"));
    events_.push_back(event);
    return Check(driver_.record(event, stream_), "cuEventRecord");
  }
  int count() const override { return static_cast<int>(events_.size()); }
  absl::StatusOr<double> Between(int from, int to) override {
    float milliseconds = 0;
    SHOAL_RETURN_IF_ERROR(Check(driver_.synchronise(At(to)), "cuEventSynchronize"));
    SHOAL_RETURN_IF_ERROR(Check(driver_.elapsed(&milliseconds, At(from), At(to)), "cuEventElapsedTime"));
    return milliseconds * 1e-3;
  }

 private:
  Event At(int index) const { return events_[static_cast<size_t>(index)]; }

  const Driver driver_;
  void* const stream_;
  std::vector<Event> events_;
};

class HostEvents final : public DeviceEvents {
 public:
  absl::Status Record() override {
    times_.push_back(std::chrono::steady_clock::now());
    return absl::OkStatus();
  }
  int count() const override { return static_cast<int>(times_.size()); }
  absl::StatusOr<double> Between(int from, int to) override {
    return std::chrono::duration<double>(times_[static_cast<size_t>(to)] - times_[static_cast<size_t>(from)]).count();
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> times_;
};

}  // namespace

std::unique_ptr<DeviceEvents> DeviceEvents::OfHost() { return std::make_unique<HostEvents>(); }

absl::StatusOr<std::unique_ptr<DeviceEvents>> DeviceEvents::Open(void* native_stream) {
  SHOAL_ASSIGN_OR_RETURN(const Driver driver, OpenDriver());
  return std::make_unique<CudaEvents>(driver, native_stream);
}

}  // namespace shoal::gpu
