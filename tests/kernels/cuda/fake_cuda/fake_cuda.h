// A test's hold on the devices that fake_cuda.cc plays: two, of 1 GiB and 3 multiprocessors each.
#pragma once

#include <atomic>

#include "kernels/cuda/emulated/work_queue.h"

namespace shoal::cuda::fake {

struct Settings {
  std::atomic<emulated::Pace> pace = emulated::Pace::kEager;  // of streams that are made from now on
  std::atomic<int> compute_major = 8, shared_bytes = 163 << 10;
  std::atomic<bool> shares_by_descriptor = true;
  std::atomic<bool> reaches_peers = true;  // a device the memory of the other one
};
Settings& settings();

// Streams, events, graphs, pieces of memory and reserved addresses that were made and not given back.
int Alive();
// The next launch on a stream of this device makes an illegal access.
void FailLaunch(int device);
// How many calls were made with this device current: the first of a process makes a context there.
int Touched(int device);

// Shared memory, as the driver has it (fake_driver_api.cc).
size_t SharedBytes(int device);
void* FindDriverFunction(const char* name);
void Count(int change);  // of what Alive() counts

}  // namespace shoal::cuda::fake
