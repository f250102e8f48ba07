// Memory that outlives the process using it: an anonymous memory file owned by the agent, mapped by its ranks, or a
// device's, of which the agent holds no more than the descriptor.
// Not thread-safe; the mapping itself may be used from any thread.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace shoal::device {

class SharedMemory {
 public:
  // `label` shows up in /proc/PID/maps. The descriptor is close-on-exec; pages are committed on first touch.
  static absl::StatusOr<SharedMemory> Create(const std::string& label, size_t bytes);
  // Maps the whole of a descriptor handed over by the owner. Takes the descriptor.
  static absl::StatusOr<SharedMemory> Attach(int fd, bool writable);
  // A named segment under /dev/shm, for processes that are not related; random name, mode 0600. Unlink() once all have
  // it open. ResourceExhausted says how much /dev/shm has free and how to raise it.
  static absl::StatusOr<SharedMemory> CreateNamed(const std::string& name, size_t bytes);
  static absl::StatusOr<SharedMemory> OpenNamed(const std::string& name);
  static void Unlink(const std::string& name);

  // Memory of the device `device` (ops::Accelerator::SharedHandle), kept alive and handed on: data() is null. Takes the
  // descriptor.
  static SharedMemory Hold(int fd, size_t bytes, int device);

  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  int fd() const { return fd_; }
  int device() const { return device_; }  // kHost, or what Hold() was told
  static constexpr int kHost = -1;

  // No process can write or resize it any more. The own mapping becomes read-only.
  absl::Status Seal();

 private:
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  int device_ = kHost;
};

}  // namespace shoal::device
