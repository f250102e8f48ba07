// NCCL and CUDA behind nccl_api.h: part of the CUDA plug-in (kernels/cuda/CMakeLists.txt).
// Tested by: tests/comm/nccl_device_test.cc
//
// Communicators are non-blocking: each call hands its work to a thread of NCCL's and returns ncclInProgress; until
// ncclCommGetAsyncError() says otherwise neither the communicator nor the stream may be used. It costs a thread's start
// for each operation that is not in a graph. In return no call ever waits for a peer: not while connections are made,
// and not when NCCL's own queues are full of operations whose peer is gone.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/nccl_api.h"
#include "worker/comm/nccl_library.h"

#if NCCL_VERSION_CODE < 22200
#error "NCCL headers 2.22 or later are needed"
#endif

namespace shoal::comm {
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(NcclId));

struct Functions {
  std::string version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommGetAsyncError) get_async_error;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
};

template <typename Function>
absl::Status Find(const NcclLibrary& library, const char* name, Function* function) {
  SHOAL_ASSIGN_OR_RETURN(void* const found, library.Find(name));
  *function = reinterpret_cast<Function>(found);
  return absl::OkStatus();
}

absl::StatusOr<Functions> Load() {
  SHOAL_ASSIGN_OR_RETURN(const NcclLibrary library, NcclLibrary::Open());
  Functions f = {};
  f.version = library.version();
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", &f.get_unique_id));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", &f.init));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", &f.get_async_error));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclCommAbort", &f.abort));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclAllGather", &f.all_gather));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclSend", &f.send));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclRecv", &f.recv));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclGroupStart", &f.group_start));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclGroupEnd", &f.group_end));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclGetErrorString", &f.error_string));
  SHOAL_RETURN_IF_ERROR(Find(library, "ncclGetLastError", &f.last_error));
  return f;
}

// At first use.
const absl::StatusOr<Functions>& Loaded() {
  static const auto* const loaded = new absl::StatusOr<Functions>(Load());
  return *loaded;
}

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // the next caller must not find it
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
}

// ncclInProgress is no error: Settled() says how it goes on. What NCCL calls system and remote errors are sockets and
// network adapters that fail, which is how the end of a peer shows.
absl::Status NcclStatus(const Functions& f, ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const char* const last = f.last_error(nullptr);
  std::string text = absl::StrCat(what, ": NCCL ", f.version, ": ", f.error_string(result));
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, ": ", last);
  const bool peer = result == ncclRemoteError || result == ncclSystemError;
  return peer ? absl::UnavailableError(text) : absl::InternalError(text);
}

class Comm final : public NcclComm {
 public:
  Comm(const Functions& f, ncclComm_t comm) : f_(f), comm_(comm) {}
  ~Comm() override {
    if (comm_ != nullptr) (void)f_.abort(comm_);
  }
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  absl::StatusOr<bool> Settled() override {
    ncclResult_t state = ncclSuccess;
    SHOAL_RETURN_IF_ERROR(NcclStatus(f_, f_.get_async_error(comm_, &state), "ncclCommGetAsyncError"));
    SHOAL_RETURN_IF_ERROR(NcclStatus(f_, state, "asynchronously"));
    return state != ncclInProgress;
  }

  absl::Status AllGather(const void* part, void* all, size_t bytes, void* stream) override {
    const auto queue = static_cast<cudaStream_t>(stream);
    return NcclStatus(f_, f_.all_gather(part, all, bytes, ncclUint8, comm_, queue), "ncclAllGather");
  }

  absl::Status Exchange(std::span<const Transfer> transfers, void* stream) override {
    const auto queue = static_cast<cudaStream_t>(stream);
    SHOAL_RETURN_IF_ERROR(NcclStatus(f_, f_.group_start(), "ncclGroupStart"));
    absl::Status begun;
    for (const Transfer& t : transfers) {
      begun = t.send != nullptr
                  ? NcclStatus(f_, f_.send(t.send, t.bytes, ncclUint8, t.peer, comm_, queue), "ncclSend")
                  : NcclStatus(f_, f_.recv(t.receive, t.bytes, ncclUint8, t.peer, comm_, queue), "ncclRecv");
      if (!begun.ok()) break;
    }
    const ncclResult_t ended = f_.group_end();  // whatever has happened: this thread's group must not stay open
    SHOAL_RETURN_IF_ERROR(begun);
    return NcclStatus(f_, ended, "ncclGroupEnd");
  }

  // Within a group.
  void Abort() {
    if (comm_ != nullptr) (void)f_.abort(std::exchange(comm_, nullptr));
  }

 private:
  const Functions& f_;
  ncclComm_t comm_;
};

class Queue final : public NcclQueue {
 public:
  explicit Queue(cudaStream_t main) : main_(main) {}
  // Streams and events that are in use go when they are done with.
  ~Queue() override {
    for (const cudaEvent_t event : places_) (void)cudaEventDestroy(event);
    if (ready_ != nullptr) (void)cudaEventDestroy(ready_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  absl::Status Make(int places) {
    // Before other work, as far as the device allows it: a reader may wait for what is sent here.
    int least = 0, greatest = 0;
    SHOAL_RETURN_IF_ERROR(
        CudaStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange"));
    SHOAL_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
                                     "cudaStreamCreateWithPriority"));
    SHOAL_RETURN_IF_ERROR(MakeEvent(&ready_));
    for (int i = 0; i < places; ++i) SHOAL_RETURN_IF_ERROR(MakeEvent(&places_.emplace_back(nullptr)));
    return absl::OkStatus();
  }

  void* native_stream() override { return stream_; }

  absl::Status FollowMain() override {
    SHOAL_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(ready_, main_), "cudaEventRecord"));
    return CudaStatus(cudaStreamWaitEvent(stream_, ready_, 0), "cudaStreamWaitEvent");
  }
  absl::Status Remember(int place) override {
    return CudaStatus(cudaEventRecord(places_[static_cast<size_t>(place)], stream_), "cudaEventRecord");
  }
  absl::Status HoldMain(int place) override {
    return CudaStatus(cudaStreamWaitEvent(main_, places_[static_cast<size_t>(place)], 0), "cudaStreamWaitEvent");
  }

 private:
  static absl::Status MakeEvent(cudaEvent_t* event) {
    return CudaStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }

  const cudaStream_t main_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  std::vector<cudaEvent_t> places_;
};

// NCCL and new streams take the thread's device.
absl::Status UseDeviceOf(void* stream) {
  int device = 0;
  SHOAL_RETURN_IF_ERROR(
      CudaStatus(cudaStreamGetDevice(static_cast<cudaStream_t>(stream), &device), "cudaStreamGetDevice"));
  return CudaStatus(cudaSetDevice(device), "cudaSetDevice");
}

class Api final : public NcclApi {
 public:
  absl::StatusOr<std::string> Version() override {
    SHOAL_RETURN_IF_ERROR(Loaded().status());
    return Loaded()->version;
  }

  absl::StatusOr<NcclId> MakeId() override {
    SHOAL_RETURN_IF_ERROR(Loaded().status());
    ncclUniqueId made;
    SHOAL_RETURN_IF_ERROR(NcclStatus(*Loaded(), Loaded()->get_unique_id(&made), "ncclGetUniqueId"));
    NcclId id;
    std::memcpy(id.data(), made.internal, id.size());
    return id;
  }

  absl::StatusOr<std::unique_ptr<NcclComm>> Join(const NcclId& id, const CommOptions& options) override {
    SHOAL_RETURN_IF_ERROR(Loaded().status());
    SHOAL_RETURN_IF_ERROR(UseDeviceOf(options.stream));
    ncclUniqueId named;
    std::memcpy(named.internal, id.data(), id.size());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (options.max_blocks > 0) config.maxCTAs = options.max_blocks;
    ncclComm_t comm = nullptr;
    const ncclResult_t begun = Loaded()->init(&comm, options.size, named, options.rank, &config);
    auto made = std::make_unique<Comm>(*Loaded(), comm);
    SHOAL_RETURN_IF_ERROR(NcclStatus(*Loaded(), begun, "ncclCommInitRankConfig"));
    return made;
  }

  void Abort(std::span<NcclComm* const> comms) override {
    if (!Loaded().ok() || Loaded()->group_start() != ncclSuccess) return;
    for (NcclComm* const comm : comms) static_cast<Comm*>(comm)->Abort();
    (void)Loaded()->group_end();
  }

  absl::StatusOr<std::unique_ptr<NcclQueue>> MakeQueue(void* main, int places) override {
    SHOAL_RETURN_IF_ERROR(UseDeviceOf(main));
    auto queue = std::make_unique<Queue>(static_cast<cudaStream_t>(main));
    SHOAL_RETURN_IF_ERROR(queue->Make(places));
    return queue;
  }
};

}  // namespace
}  // namespace shoal::comm

__attribute__((visibility("default"))) shoal::comm::NcclApi* shoal_nccl() {
  static auto* const api = new shoal::comm::Api;
  return api;
}
