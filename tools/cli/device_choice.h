// What `--device` comes to on this machine.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "worker/maker/client.h"

namespace shoal::cli {

struct DeviceChoice {
  std::string device;  // never "auto"
  std::string note;    // for the user, where "auto" had to leave GPUs unused that seem to be wanted; else empty
};

// "auto" is "cuda" where a CUDA device can be used, else "cpu"; all else is itself. FailedPrecondition: "cuda" was
// asked for and cannot be used, with what is missing and what helps. The driver is started by a process of its own.
absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& wanted, const maker::Makers& makers);

}  // namespace shoal::cli
