// CUDA's runtime on the emulated device's queue and memory, with CUDA's own rules: what a capture forbids spoils it, a
// stream takes work only while its device is the thread's current one, an illegal access ends the device.
#include "tests/kernels/cuda/fake_cuda/fake_cuda.h"

#include <array>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "kernels/cuda/emulated/heap.h"
#include "tests/kernels/cuda/fake_cuda/cuda_runtime_api.h"

using shoal::Mutex;
using shoal::MutexLock;
using shoal::cuda::emulated::Heap;
using shoal::cuda::emulated::WorkQueue;
namespace fake = shoal::cuda::fake;

namespace {

constexpr int kDevices = 4;
constexpr size_t kMemory = size_t{1} << 30;

thread_local int t_device = 0;
thread_local cudaStream_t t_capturing = nullptr;
std::atomic<int> g_alive = 0;
std::array<std::atomic<int>, kDevices> g_touched = {};

struct Device {
  Heap memory, pinned;
  Mutex mutex;
  std::vector<cudaStream_t> streams SHOAL_GUARDED_BY(mutex);
  std::atomic<bool> failed = false;
};
std::array<Device, kDevices>& Devices() {
  static std::array<Device, kDevices> devices;
  return devices;
}

}  // namespace

struct CUstream_st final : shoal::cuda::emulated::Queue {
  CUstream_st(int on, shoal::cuda::emulated::Pace pace) : device(on), queue(pace) {}
  absl::Status Enqueue(const std::string& name, Work work) override {
    if (t_device != device) return absl::InternalError(name + ": cudaErrorInvalidResourceHandle");
    if (spoilt) return absl::InternalError(name + ": cudaErrorStreamCaptureInvalidated");
    return queue.Enqueue(name, std::move(work));
  }
  const int device;
  bool spoilt = false;  // the capture
  WorkQueue queue;
};
struct CUevent_st {
  cudaStream_t stream = nullptr;
  uint64_t mark = 0;
};
struct CUgraph_st {
  WorkQueue::Recording recording;
};
struct CUgraphExec_st {
  WorkQueue::Recording recording;
};

namespace {

// What every call says of the thread's device.
cudaError_t Health() {
  ++g_touched[static_cast<size_t>(t_device)];
  Device& device = Devices()[static_cast<size_t>(t_device)];
  const MutexLock lock(device.mutex);
  for (cudaStream_t stream : device.streams) {
    if (!stream->queue.Usable().ok()) device.failed = true;
  }
  return device.failed ? cudaErrorIllegalAddress : cudaSuccess;
}

// The same for a call that spoils this thread's capture.
cudaError_t HealthOutsideCapture() {
  if (t_capturing == nullptr) return Health();
  t_capturing->spoilt = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t From(const absl::Status& status) {
  if (status.ok()) return cudaSuccess;
  const cudaError_t health = Health();
  return health != cudaSuccess ? health : cudaErrorInvalidValue;
}

cudaError_t Enqueue(cudaStream_t stream, const char* name, shoal::cuda::emulated::Queue::Work work) {
  if (const cudaError_t health = Health(); health != cudaSuccess) return health;
  if (stream->spoilt) return cudaErrorStreamCaptureInvalidated;
  return From(stream->queue.EnqueueCopy(name, std::move(work)));
}

// Waits for all streams of the device, as cudaFree does.
cudaError_t Free(bool pinned, void* memory) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  for (Device& device : Devices()) {
    Heap& heap = pinned ? device.pinned : device.memory;
    if (!heap.Has(memory, 1)) continue;
    {
      const MutexLock lock(device.mutex);
      for (cudaStream_t stream : device.streams) (void)stream->queue.Synchronise();
    }
    heap.Free(memory, 0);
    fake::Count(-1);
    return From(heap.Reclaim(0));
  }
  return cudaErrorInvalidValue;
}

}  // namespace

namespace shoal::cuda::fake {

Settings& settings() {
  static Settings all;
  return all;
}
int Alive() { return g_alive; }
int Touched(int device) { return g_touched[static_cast<size_t>(device)]; }
void Count(int change) { g_alive += change; }
void FailLaunch(int device) {
  Device& of = Devices()[static_cast<size_t>(device)];
  const MutexLock lock(of.mutex);
  for (cudaStream_t stream : of.streams) stream->queue.FailLaunch(1);
}

}  // namespace shoal::cuda::fake

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "cudaError...";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "another error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const fake::Settings& s = fake::settings();
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 3
           : attribute == cudaDevAttrComputeCapabilityMajor ? s.compute_major.load()
                                                            : s.shared_bytes.load();
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return cudaErrorInvalidDevice;
  t_device = device;
  return Health();
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  const size_t used = Devices()[static_cast<size_t>(t_device)].memory.used() + fake::SharedBytes(t_device);
  *free = kMemory - std::min(used, kMemory);
  *total = kMemory;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  size_t free = 0, total = 0;
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  if (const cudaError_t error = cudaMemGetInfo(&free, &total); error != cudaSuccess) return error;
  if (bytes > free) return cudaErrorMemoryAllocation;
  *memory = Devices()[static_cast<size_t>(t_device)].memory.Allocate(bytes);
  fake::Count(1);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  if (bytes > kMemory) return cudaErrorMemoryAllocation;
  *memory = Devices()[static_cast<size_t>(t_device)].pinned.Allocate(bytes);
  fake::Count(1);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) { return Free(false, memory); }
cudaError_t cudaFreeHost(void* memory) { return Free(true, memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return Enqueue(stream, "copy", [=] { return std::memmove(to, from, bytes), absl::OkStatus(); });
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  return Enqueue(stream, "fill", [=] { return std::memset(to, byte, bytes), absl::OkStatus(); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  *stream = new CUstream_st(t_device, fake::settings().pace);
  Device& device = Devices()[static_cast<size_t>(t_device)];
  const MutexLock lock(device.mutex);
  device.streams.push_back(*stream);
  fake::Count(1);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return Health();
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return priority > 0 || priority < -5 ? cudaErrorInvalidValue : cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  *device = stream->device;
  return Health();
}

// What the event marks now; nothing, before it was recorded.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (flags != 0) return cudaErrorInvalidValue;
  if (event->stream == nullptr) return Health();
  return Enqueue(stream, "wait", [of = *event]() -> absl::Status {
    while (true) {
      const absl::StatusOr<bool> reached = of.stream->queue.Reached(of.mark);
      if (!reached.ok() || *reached) return reached.status();
      std::this_thread::yield();
    }
  });
}

// A device that has failed is well again once its streams are gone, as after the end of its process.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Device& device = Devices()[static_cast<size_t>(stream->device)];
  {
    const MutexLock lock(device.mutex);
    std::erase(device.streams, stream);
    if (device.streams.empty()) device.failed = false;
  }
  delete stream;
  fake::Count(-1);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  return From(stream->queue.Synchronise());
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue;
  *event = new CUevent_st;
  fake::Count(1);
  return Health();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  fake::Count(-1);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  if (t_device != stream->device) return cudaErrorInvalidResourceHandle;
  const absl::StatusOr<uint64_t> mark = stream->queue.Mark();
  if (mark.ok()) *event = {stream, *mark};
  return From(mark.status());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t health = HealthOutsideCapture(); health != cudaSuccess) return health;
  const absl::StatusOr<bool> reached = event->stream->queue.Reached(event->mark);
  if (!reached.ok()) return From(reached.status());
  return *reached ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (const cudaError_t health = Health(); health != cudaSuccess) return health;
  if (t_capturing != nullptr || mode != cudaStreamCaptureModeThreadLocal) return cudaErrorInvalidValue;
  t_capturing = stream;
  return From(stream->queue.BeginCapture());
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (t_capturing != stream) return cudaErrorStreamCaptureWrongThread;
  t_capturing = nullptr;
  const absl::StatusOr<WorkQueue::Recording> recording = stream->queue.EndCapture();
  const bool spoilt = std::exchange(stream->spoilt, false);
  if (!recording.ok()) return From(recording.status());
  if (spoilt) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st{*recording};
  fake::Count(1);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (graph == nullptr) return cudaErrorInvalidValue;
  *exec = new CUgraphExec_st{graph->recording};
  fake::Count(1);
  return Health();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  fake::Count(-1);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  fake::Count(-1);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (const cudaError_t health = Health(); health != cudaSuccess) return health;
  if (t_device != stream->device) return cudaErrorInvalidResourceHandle;
  return From(stream->queue.Launch(exec->recording));
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  if (version > CUDART_VERSION) return cudaErrorInvalidValue;  // a later one than the driver's
  *function = fake::FindDriverFunction(name);
  *result = *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
