// Memory of an emulated device that outlives its process: sealed memory files, named after the device so that nothing
// else is taken for one. One thread.
#pragma once

#include <sys/types.h>

#include <map>
#include <vector>

#include "kernels/ops/accelerator.h"

namespace shoal::cuda::emulated {

class SharedMemory {
 public:
  static constexpr size_t kGranularity = 2 << 20;  // as on devices with 2 MiB pages

  explicit SharedMemory(int device) : device_(device) {}
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();  // unmaps all

  // As ops::Accelerator has them. `bytes` of Create is a multiple of the granularity.
  absl::StatusOr<ops::Accelerator::SharedHandle> Create(size_t bytes);
  absl::StatusOr<void*> Map(int fd, size_t bytes) { return MapOf(device_, fd, bytes); }
  // Of what `device` has created.
  absl::StatusOr<void*> MapOf(int device, int fd, size_t bytes);
  void Unmap(void* memory, size_t bytes);

  // Whether [memory, memory + bytes) lies in one mapping.
  bool Has(const void* memory, size_t bytes) const;
  // Of what was created or mapped here and is still open or mapped in this process. What other processes have does not
  // count: a real device knows, the emulated one does not.
  size_t used();

 private:
  struct Piece {
    dev_t dev;
    ino_t ino;
    size_t bytes;
  };
  struct Mapping {
    size_t bytes;
    ino_t ino;
  };
  void Remember(const Piece& piece);

  const int device_;
  std::vector<Piece> pieces_;
  std::map<const std::byte*, Mapping> mappings_;
};

}  // namespace shoal::cuda::emulated
