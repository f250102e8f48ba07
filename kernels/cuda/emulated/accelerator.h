// The CUDA backend's device on the host, for tests: kernels compiled by the host's compiler (block.h), run in order by
// a thread that stands for the device. What a device leaves open is decided adversely: fresh memory is 0xff bytes (but
// for shared memory: 0), a copy reads and writes when its turn comes, and a lazy one has its turn as late as it can.
// Several may live in one process, each with its own thread, and in several. What a device would not notice or would
// read rubbish from is an error here: a copy whose host side is not pinned or whose device side is not its memory, a
// write to memory that was freed; and a CHECK: memory freed twice, a graph destroyed after its accelerator.
#pragma once

#include <memory>

#include "kernels/cuda/emulated/work_queue.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/ops/accelerator.h"

namespace shoal::cuda {

struct EmulatedOptions {
  const ops::OpTable* table = nullptr;          // of ops that launch on a QueueStream; outlives the accelerator
  std::shared_ptr<LibraryGemm> gemm = nullptr;  // what a table of --numerics fast asks; may be null
  int device = 0;                               // shared memory of another one is refused
  int multiprocessors = 4;
  size_t memory_bytes = size_t{1} << 30;
  emulated::Pace pace = emulated::Pace::kEager;
  bool reaches_peers = true;  // the memory of other devices
};

// Its Id() ends with the number of the device. native_stream() is an emulated::Queue*.
std::unique_ptr<ops::Accelerator> MakeEmulatedAccelerator(const EmulatedOptions& options);

namespace emulated {
// The `launches`-th launch from now (1: the next) makes an illegal access when it runs.
void FailLaunch(ops::Accelerator& emulated, int launches);
// That have not been destroyed.
int GraphCount(ops::Accelerator& emulated);
}  // namespace emulated

}  // namespace shoal::cuda
