// The stream of an accelerator's ops: the queue that launches go to.
#pragma once

#include <cstdlib>

#include "kernels/cuda/device_stream.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/ops/stream.h"

namespace shoal::cuda {

class QueueStream final : public ops::Stream {
 public:
  QueueStream(DeviceStream queue, int multiprocessors) : queue_(queue), multiprocessors_(multiprocessors) {}
  DeviceStream queue() const { return queue_; }
  // What the ops of --numerics fast ask first; null: there is none.
  LibraryGemm* gemm() const { return gemm_; }
  void SetGemm(LibraryGemm* gemm) { gemm_ = gemm; }  // it outlives the ops

  int threads() const override { return multiprocessors_; }
  void ParallelFor(int, Task, void*) override { std::abort(); }  // of ops on a host

 private:
  const DeviceStream queue_;
  const int multiprocessors_;
  LibraryGemm* gemm_ = nullptr;
};

}  // namespace shoal::cuda
