// Tested by: tests/kernels/cuda/device_accelerator_test.cc
#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/illegal_access.h"
#include "kernels/cuda/last_launch.h"
#include "kernels/cuda/out_of_memory.h"
#include "kernels/cuda/queue_stream.h"
#include "kernels/cuda/shared_memory.h"
#include "kernels/cuda/status.h"
#include "kernels/cuda/table.h"
#include "kernels/ops/cuda_plugin.h"

namespace shoal::cuda {
namespace {

thread_local const char* t_last_launch = "nothing";

class Graph final : public ops::AcceleratorGraph {
 public:
  explicit Graph(cudaGraphExec_t exec) : exec_(exec) {}
  ~Graph() override { (void)cudaGraphExecDestroy(exec_); }
  cudaGraphExec_t exec() const { return exec_; }

 private:
  const cudaGraphExec_t exec_;
};

class CudaAccelerator final : public ops::Accelerator {
 public:
  // Takes the stream.
  CudaAccelerator(int device, int multiprocessors, cudaStream_t stream, const SharedMemory& shared)
      : device_(device), queue_(stream), shared_(shared), stream_(stream, multiprocessors) {}
  ~CudaAccelerator() override;

  // For --numerics fast, before anything else. FailedPrecondition: there is no library.
  absl::Status OpenGemm(bool multiplies_fp8);

  const ops::OpTable& table() const override {
    return Table(gemm_ == nullptr ? ops::Numerics::kInvariant : ops::Numerics::kFast);
  }
  ops::Stream& stream() override { return stream_; }
  void* native_stream() override { return queue_; }

  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override { Release({memory, false}); }
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override;
  void FreePinned(void* memory) override { Release({memory, true}); }
  absl::StatusOr<MemoryInfo> Memory() override;

  absl::StatusOr<SharedHandle> CreateShared(size_t bytes) override;
  absl::StatusOr<void*> MapShared(int fd, size_t bytes) override;
  void UnmapShared(void* memory, size_t bytes) override;
  absl::StatusOr<DeviceId> Id() override;
  absl::StatusOr<void*> MapPeer(int fd, size_t bytes, const DeviceId& owner) override;

  absl::Status CopyIn(void* to, const void* from_pinned, size_t bytes) override {
    return EnqueueCopy("copy in", to, from_pinned, bytes, cudaMemcpyHostToDevice);
  }
  absl::Status CopyOut(void* to_pinned, const void* from, size_t bytes) override {
    return EnqueueCopy("copy out", to_pinned, from, bytes, cudaMemcpyDeviceToHost);
  }
  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    return EnqueueCopy("copy", to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  absl::Status Fill(void* to, uint8_t byte, size_t bytes) override;

  absl::StatusOr<uint64_t> Mark() override;
  absl::StatusOr<bool> Reached(uint64_t mark) override;
  absl::Status Synchronise() override;

  absl::Status BeginCapture() override;
  absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> EndCapture() override;
  absl::Status Launch(ops::AcceleratorGraph& graph) override;
  absl::Status ProvokeFault() override;

 private:
  struct Piece {
    void* memory;
    bool pinned;
  };

  absl::Status Usable();
  absl::Status UsableFor(const char* what);
  absl::Status Check(cudaError_t error, const char* what);
  absl::Status Keep(absl::Status status);
  absl::Status EnqueueCopy(const char* what, void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
  void Release(const Piece& piece) SHOAL_EXCLUDES(frees_mutex_);
  void SetCapturing(bool capturing) SHOAL_EXCLUDES(frees_mutex_);
  void FreeNow(const Piece& piece) const;
  absl::Status EnsureMark(cudaEvent_t* event);
  void MarksDone(size_t count);

  const int device_;
  const cudaStream_t queue_;
  const SharedMemory shared_;
  QueueStream stream_;
  void* gemm_workspace_ = nullptr;
  std::unique_ptr<LibraryGemm> gemm_;
  absl::Status failed_;  // once Internal was said, for ever

  std::deque<cudaEvent_t> marks_;  // of the marks from reached_ + 1 on
  uint64_t reached_ = 0;
  std::vector<cudaEvent_t> spare_;

  // A thread that records may not free: it would spoil the recording. Written by the one thread, read by those that
  // free.
  Mutex frees_mutex_;
  bool capturing_ SHOAL_GUARDED_BY(frees_mutex_) = false;
  std::vector<Piece> put_off_ SHOAL_GUARDED_BY(frees_mutex_);
  bool recording_ = false;  // capturing_, for the one thread
};

// What a device that has failed says to it matters no more.
CudaAccelerator::~CudaAccelerator() {
  (void)cudaSetDevice(device_);
  if (recording_) (void)EndCapture();
  (void)cudaStreamSynchronize(queue_);
  MarksDone(marks_.size());
  for (cudaEvent_t event : spare_) (void)cudaEventDestroy(event);
  gemm_.reset();
  Free(gemm_workspace_);
  (void)cudaStreamDestroy(queue_);
  (void)cudaGetLastError();
}

absl::Status CudaAccelerator::OpenGemm(bool multiplies_fp8) {
  GemmScratch scratch;
  if (multiplies_fp8) scratch.bytes = kGemmScratchBytes, scratch.tokens = kGemmScratchTokens;
  const size_t scales_at = kGemmWorkspaceBytes + static_cast<size_t>(scratch.bytes);
  SHOAL_ASSIGN_OR_RETURN(gemm_workspace_, Allocate(scales_at + static_cast<size_t>(scratch.tokens) * sizeof(float)));
  if (multiplies_fp8) {
    scratch.codes = static_cast<uint8_t*>(gemm_workspace_) + kGemmWorkspaceBytes;
    scratch.scales = reinterpret_cast<float*>(static_cast<uint8_t*>(gemm_workspace_) + scales_at);
  }
  SHOAL_ASSIGN_OR_RETURN(gemm_, OpenCublasLtGemm(gemm_workspace_, scratch));
  stream_.SetGemm(gemm_.get());
  return absl::OkStatus();
}

absl::Status CudaAccelerator::Keep(absl::Status status) {
  if (!failed_.ok() || status.code() != absl::StatusCode::kInternal) return status;
  failed_ = absl::InternalError(absl::StrCat(status.message(), "; launched last: ", LastLaunch()));
  return failed_;
}

absl::Status CudaAccelerator::Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // the next caller must not find it; what has broken the context stays all the same
  return Keep(ToStatus(error, what));
}

// This thread may have used another device since.
absl::Status CudaAccelerator::Usable() {
  SHOAL_RETURN_IF_ERROR(failed_);
  return Check(cudaSetDevice(device_), "cudaSetDevice");
}

absl::Status CudaAccelerator::UsableFor(const char* what) {
  SHOAL_RETURN_IF_ERROR(Usable());
  if (!recording_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(what, ": not while a graph is captured"));
}

absl::StatusOr<ops::Accelerator::MemoryInfo> CudaAccelerator::Memory() {
  SHOAL_RETURN_IF_ERROR(UsableFor("asking for memory"));
  MemoryInfo info = {};
  SHOAL_RETURN_IF_ERROR(Check(cudaMemGetInfo(&info.free, &info.total), "cudaMemGetInfo"));
  return info;
}

absl::StatusOr<void*> CudaAccelerator::Allocate(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(UsableFor("an allocation"));
  void* memory = nullptr;
  // Nothing would be null. cudaMalloc aligns to 256 bytes or more.
  const absl::Status allocated = Check(cudaMalloc(&memory, bytes == 0 ? 1 : bytes), "cudaMalloc");
  if (allocated.ok()) return memory;
  if (!absl::IsResourceExhausted(allocated)) return allocated;
  SHOAL_ASSIGN_OR_RETURN(const MemoryInfo info, Memory());
  return OutOfMemory(bytes, info);
}

absl::StatusOr<void*> CudaAccelerator::AllocatePinned(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(UsableFor("an allocation"));
  void* memory = nullptr;
  const absl::Status allocated =
      Check(cudaHostAlloc(&memory, bytes == 0 ? 1 : bytes, cudaHostAllocDefault), "cudaHostAlloc");
  if (allocated.ok()) return memory;
  if (!absl::IsResourceExhausted(allocated)) return allocated;
  return absl::ResourceExhaustedError(absl::StrCat("out of pinned host memory: ", bytes, " bytes asked"));
}

void CudaAccelerator::Release(const Piece& piece) {
  if (piece.memory == nullptr) return;
  {
    const MutexLock lock(frees_mutex_);
    if (capturing_) {
      put_off_.push_back(piece);
      return;
    }
  }
  FreeNow(piece);
}

// Any thread, whose current device this becomes: with another one current, CUDA would make a context there.
void CudaAccelerator::FreeNow(const Piece& piece) const {
  (void)cudaSetDevice(device_);
  if ((piece.pinned ? cudaFreeHost(piece.memory) : cudaFree(piece.memory)) != cudaSuccess) (void)cudaGetLastError();
}

void CudaAccelerator::SetCapturing(bool capturing) {
  recording_ = capturing;
  if (gemm_ != nullptr) gemm_->SetRecording(capturing);
  std::vector<Piece> now;
  {
    const MutexLock lock(frees_mutex_);
    capturing_ = capturing;
    if (!capturing) now.swap(put_off_);
  }
  for (const Piece& piece : now) FreeNow(piece);
}

absl::StatusOr<ops::Accelerator::SharedHandle> CudaAccelerator::CreateShared(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(UsableFor("an allocation"));
  absl::StatusOr<SharedHandle> handle = shared_.Create(bytes);
  if (!absl::IsResourceExhausted(handle.status())) {
    SHOAL_RETURN_IF_ERROR(Keep(handle.status()));
    return handle;
  }
  SHOAL_ASSIGN_OR_RETURN(const MemoryInfo info, Memory());
  return OutOfMemory(bytes, info);
}

absl::StatusOr<void*> CudaAccelerator::MapShared(int fd, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(UsableFor("a mapping"));
  absl::StatusOr<void*> memory = shared_.Map(fd, bytes);
  SHOAL_RETURN_IF_ERROR(Keep(memory.status()));
  return memory;
}

void CudaAccelerator::UnmapShared(void* memory, size_t bytes) {
  (void)cudaSetDevice(device_);
  shared_.Unmap(memory, bytes);
}

absl::StatusOr<ops::Accelerator::DeviceId> CudaAccelerator::Id() {
  SHOAL_RETURN_IF_ERROR(Usable());
  absl::StatusOr<DeviceId> id = shared_.Id(device_);
  SHOAL_RETURN_IF_ERROR(Keep(id.status()));
  return id;
}

absl::StatusOr<void*> CudaAccelerator::MapPeer(int fd, size_t bytes, const DeviceId& owner) {
  SHOAL_RETURN_IF_ERROR(UsableFor("a mapping"));
  return shared_.MapPeer(fd, bytes, owner);
}

absl::Status CudaAccelerator::EnqueueCopy(const char* what, void* to, const void* from, size_t bytes,
                                          cudaMemcpyKind kind) {
  SHOAL_RETURN_IF_ERROR(Usable());
  if (bytes == 0) return absl::OkStatus();
  return Check(cudaMemcpyAsync(to, from, bytes, kind, queue_), what);
}

absl::Status CudaAccelerator::Fill(void* to, uint8_t byte, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(Usable());
  if (bytes == 0) return absl::OkStatus();
  return Check(cudaMemsetAsync(to, byte, bytes, queue_), "fill");
}

absl::Status CudaAccelerator::EnsureMark(cudaEvent_t* event) {
  if (spare_.empty()) return Check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
  *event = spare_.back();
  spare_.pop_back();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> CudaAccelerator::Mark() {
  SHOAL_RETURN_IF_ERROR(UsableFor("a mark"));
  cudaEvent_t event = nullptr;
  SHOAL_RETURN_IF_ERROR(EnsureMark(&event));
  const absl::Status recorded = Check(cudaEventRecord(event, queue_), "cudaEventRecord");
  if (!recorded.ok()) {
    spare_.push_back(event);
    return recorded;
  }
  marks_.push_back(event);
  return reached_ + marks_.size();
}

// The first `count` of those that are open.
void CudaAccelerator::MarksDone(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    spare_.push_back(marks_.front());
    marks_.pop_front();
  }
  reached_ += count;
}

absl::StatusOr<bool> CudaAccelerator::Reached(uint64_t mark) {
  SHOAL_RETURN_IF_ERROR(failed_);  // no Usable(): an event knows its device
  if (recording_) return UsableFor("asking for a mark");
  SHOAL_CHECK(mark <= reached_ + marks_.size());  // one that was made
  if (mark <= reached_) return true;
  const size_t count = mark - reached_;
  const cudaError_t error = cudaEventQuery(marks_[count - 1]);
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return false;
  }
  SHOAL_RETURN_IF_ERROR(Check(error, "cudaEventQuery"));
  MarksDone(count);
  return true;
}

absl::Status CudaAccelerator::Synchronise() {
  SHOAL_RETURN_IF_ERROR(UsableFor("waiting"));
  SHOAL_RETURN_IF_ERROR(Check(cudaStreamSynchronize(queue_), "cudaStreamSynchronize"));
  MarksDone(marks_.size());
  return absl::OkStatus();
}

absl::Status CudaAccelerator::BeginCapture() {
  SHOAL_RETURN_IF_ERROR(UsableFor("a capture"));
  SetCapturing(true);
  const absl::Status begun =
      Check(cudaStreamBeginCapture(queue_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  if (!begun.ok()) SetCapturing(false);
  return begun;
}

absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> CudaAccelerator::EndCapture() {
  if (!recording_) {
    SHOAL_RETURN_IF_ERROR(failed_);
    return absl::FailedPreconditionError("no graph is being captured");
  }
  (void)cudaSetDevice(device_);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(queue_, &graph);
  SetCapturing(false);
  SHOAL_RETURN_IF_ERROR(failed_);
  // Something that no graph can hold was tried meanwhile, as by a library; the device is none the worse.
  if (ended >= cudaErrorStreamCaptureUnsupported && ended <= cudaErrorStreamCaptureWrongThread) {
    (void)cudaGetLastError();
    return absl::FailedPreconditionError(ToStatus(ended, "cudaStreamEndCapture").message());
  }
  SHOAL_RETURN_IF_ERROR(Check(ended, "cudaStreamEndCapture"));
  cudaGraphExec_t exec = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  (void)cudaGraphDestroy(graph);
  SHOAL_RETURN_IF_ERROR(Check(made, "cudaGraphInstantiate"));
  return std::make_unique<Graph>(exec);
}

absl::Status CudaAccelerator::Launch(ops::AcceleratorGraph& graph) {
  SHOAL_RETURN_IF_ERROR(UsableFor("launching a graph"));
  NoteLaunch("a recorded graph");
  return Check(cudaGraphLaunch(static_cast<Graph&>(graph).exec(), queue_), "cudaGraphLaunch");
}

absl::Status CudaAccelerator::ProvokeFault() {
  SHOAL_RETURN_IF_ERROR(Usable());
  return EnqueueIllegalAccess(stream_);
}

absl::StatusOr<int> Attribute(int index, cudaDeviceAttr attribute) {
  int value = 0;
  SHOAL_RETURN_IF_ERROR(ToStatus(cudaDeviceGetAttribute(&value, attribute, index), "cudaDeviceGetAttribute"));
  return value;
}

absl::Status NoDevice(int index, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("CUDA device ", index, ": ", why));
}

}  // namespace

void NoteLaunch(const char* name) { t_last_launch = name; }
const char* LastLaunch() { return t_last_launch; }

void LoadKernelsEagerly() { (void)::setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0); }

absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenDevice(int index, ops::Numerics numerics) {
  LoadKernelsEagerly();
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    (void)cudaGetLastError();
    return NoDevice(index, cudaGetErrorString(error));
  }
  if (index < 0 || index >= count) return NoDevice(index, absl::StrCat("there are ", count));
  SHOAL_ASSIGN_OR_RETURN(const int major, Attribute(index, cudaDevAttrComputeCapabilityMajor));
  SHOAL_ASSIGN_OR_RETURN(const int shared_bytes, Attribute(index, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  SHOAL_ASSIGN_OR_RETURN(const int multiprocessors, Attribute(index, cudaDevAttrMultiProcessorCount));
  if (major < ops::kCudaMinComputeMajor)
    return NoDevice(index, absl::StrCat("its compute capability is ", major, ".x: it is too old"));
  if (static_cast<size_t>(shared_bytes) < ops::kCudaMinSharedBytes) {
    return NoDevice(index, absl::StrCat("a block of it has ", shared_bytes >> 10,
                                        " KiB of shared memory, the kernels need ", ops::kCudaMinSharedBytes >> 10));
  }
  SHOAL_RETURN_IF_ERROR(ToStatus(cudaSetDevice(index), "cudaSetDevice"));
  SHOAL_ASSIGN_OR_RETURN(const SharedMemory shared, SharedMemory::Open(index));
  cudaStream_t stream = nullptr;
  SHOAL_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  auto opened = std::make_unique<CudaAccelerator>(index, multiprocessors, stream, shared);
  const bool multiplies_fp8 = major >= 9;  // CUDA programming guide, tensor core types
  if (numerics == ops::Numerics::kFast) SHOAL_RETURN_IF_ERROR(opened->OpenGemm(multiplies_fp8));
  return opened;
}

}  // namespace shoal::cuda
