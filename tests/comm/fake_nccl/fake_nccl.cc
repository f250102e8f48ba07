// NCCL on sockets between the ranks (nccl_mesh.h), with NCCL's own rules for communicators that do not block: a call on
// one that is in progress is a mistake; a group's work reaches the stream while somebody asks how it goes; in a group,
// communicators are asked to abort at once and freed at its end.
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/emulated/queue.h"
#include "tests/comm/fake_nccl/nccl.h"
#include "tests/comm/nccl_mesh.h"

using shoal::comm::NcclComm;
using shoal::comm::NcclId;
using shoal::comm::NcclMesh;
using Work = shoal::cuda::emulated::Queue::Work;

namespace {

constexpr int kLooks = 3;  // that it takes until something is done

std::atomic<int> g_comms = 0;
std::atomic<ncclResult_t> g_said = ncclSuccess;
thread_local std::string t_failing;
thread_local ncclResult_t t_failure = ncclSuccess;
thread_local int t_depth = 0;
thread_local ncclResult_t t_group_error = ncclSuccess;
thread_local std::vector<ncclComm_t> t_begun, t_aborted;

}  // namespace

struct ncclComm {
  std::shared_ptr<NcclMesh> mesh;
  bool up = false;
  int looks = kLooks;
  ncclResult_t state = ncclInProgress;
  cudaStream_t stream = nullptr;
  std::vector<NcclComm::Transfer> transfers;  // of the group that is open
  std::vector<Work> gathers;
  Work work;  // of the group that has ended
};

namespace {

ncclResult_t Asked(const char* function) {
  if (t_failing != function) return ncclSuccess;
  t_failing.clear();
  t_group_error = t_depth > 0 ? t_failure : t_group_error;
  return t_failure;
}

ncclResult_t Join(ncclComm_t comm, cudaStream_t stream) {
  if (comm->state != ncclSuccess) return t_group_error = ncclInvalidArgument;
  if (comm->stream != nullptr && comm->stream != stream) return t_group_error = ncclInvalidUsage;
  if (comm->stream == nullptr) t_begun.push_back(comm);
  comm->stream = stream;
  return ncclSuccess;
}

ncclResult_t EndGroup() {
  if (--t_depth > 0) return ncclSuccess;
  const ncclResult_t error = std::exchange(t_group_error, ncclSuccess);
  for (ncclComm_t comm : std::exchange(t_aborted, {})) {
    delete comm;
    --g_comms;
  }
  const std::vector<ncclComm_t> begun = std::exchange(t_begun, {});
  for (ncclComm_t comm : begun) {
    auto transfers = std::exchange(comm->transfers, {});
    auto gathers = std::exchange(comm->gathers, {});
    if (error != ncclSuccess) {
      comm->stream = nullptr;
      continue;
    }
    comm->work = [mesh = comm->mesh, transfers, gathers]() -> absl::Status {
      for (const Work& gather : gathers) {
        if (const absl::Status done = gather(); !done.ok()) return done;
      }
      return transfers.empty() ? absl::OkStatus() : mesh->Exchange(transfers);
    };
    comm->state = ncclInProgress;
    comm->looks = kLooks;
  }
  return error != ncclSuccess ? error : begun.empty() ? ncclSuccess : ncclInProgress;
}

ncclResult_t Transferred(ncclComm_t comm, cudaStream_t stream, const NcclComm::Transfer& transfer, const char* name) {
  ++t_depth;
  ncclResult_t result = Asked(name);
  if (result == ncclSuccess) result = Join(comm, stream);
  if (result == ncclSuccess) comm->transfers.push_back(transfer);
  const ncclResult_t ended = EndGroup();
  return result != ncclSuccess ? result : ended;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (const ncclResult_t asked = Asked("ncclGetUniqueId"); asked != ncclSuccess) return asked;
  std::random_device random;
  for (char& byte : id->internal) byte = static_cast<char>(random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  *comm = nullptr;
  if (const ncclResult_t asked = Asked("ncclCommInitRankConfig"); asked != ncclSuccess) return asked;
  if (config->size != sizeof(ncclConfig_t) || config->magic != 0xcafebeef || config->blocking != 0) {
    return ncclInvalidArgument;
  }
  NcclId mesh_id;
  std::memcpy(mesh_id.data(), id.internal, mesh_id.size());
  *comm = new ncclComm;
  (*comm)->mesh = std::make_shared<NcclMesh>(mesh_id, ranks, rank);
  ++g_comms;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = comm->state;
  if (comm->state == ncclSuccess && g_said != ncclSuccess) *error = g_said;
  if (comm->state != ncclInProgress || comm->looks-- > 0) return ncclSuccess;
  if (!comm->up) {
    comm->up = comm->mesh->Connect();
    if (comm->up) comm->state = ncclSuccess;
    return ncclSuccess;
  }
  // A stream is told to nobody but to the calls that use it.
  auto* const queue = reinterpret_cast<shoal::cuda::emulated::Queue*>(std::exchange(comm->stream, nullptr));
  const bool enqueued = queue->Enqueue("nccl", std::exchange(comm->work, nullptr)).ok();
  comm->state = enqueued ? ncclSuccess : ncclUnhandledCudaError;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->mesh->Abort();
  ++t_depth;
  t_aborted.push_back(comm);
  return EndGroup();
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t, ncclComm_t comm,
                           cudaStream_t stream) {
  ++t_depth;
  ncclResult_t result = Asked("ncclAllGather");
  if (result == ncclSuccess) result = Join(comm, stream);
  if (result == ncclSuccess) {
    comm->gathers.push_back([mesh = comm->mesh, from, to, count] { return mesh->AllGather(from, to, count); });
  }
  const ncclResult_t ended = EndGroup();
  return result != ncclSuccess ? result : ended;
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return Transferred(comm, stream, {.peer = peer, .send = from, .bytes = count}, "ncclSend");
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return Transferred(comm, stream, {.peer = peer, .receive = to, .bytes = count}, "ncclRecv");
}

ncclResult_t ncclGroupStart() {
  if (const ncclResult_t asked = Asked("ncclGroupStart"); asked != ncclSuccess) return asked;
  ++t_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (t_depth == 0) return ncclInvalidUsage;
  if (Asked("ncclGroupEnd") != ncclSuccess) t_group_error = t_failure;
  return EndGroup();
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "another error";
}
const char* ncclGetLastError(ncclComm_t) { return "its last words"; }

void FakeNcclFail(const char* function, ncclResult_t result) {
  t_failing = function;
  t_failure = result;
}
void FakeNcclSay(ncclResult_t result) { g_said = result; }
int FakeNcclComms() { return g_comms; }
int FakeNcclDepth() { return t_depth; }

}  // extern "C"
