// Tested by: tests/kernels/cuda/device_accelerator_test.cc
#include "kernels/cuda/shared_memory.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/status.h"

namespace shoal::cuda {
namespace {

// The functions asked for are those of CUDA 12.0; none has changed since the version in its type's name. Not the
// toolkit's own version: a driver of an earlier minor one would refuse it.
constexpr unsigned kDriverVersion = 12000;

template <typename Function>
absl::Status Find(const char* name, Function* function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess) return ToStatus(error, name);
  if (found == nullptr) return absl::FailedPreconditionError(absl::StrCat("the driver has no ", name));
  *function = reinterpret_cast<Function>(found);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharedMemory::Driver> SharedMemory::FindDriver() {
  Driver d = {};
  SHOAL_RETURN_IF_ERROR(Find("cuGetErrorName", &d.error_name));
  SHOAL_RETURN_IF_ERROR(Find("cuGetErrorString", &d.error_string));
  SHOAL_RETURN_IF_ERROR(Find("cuDeviceGet", &d.device_get));
  SHOAL_RETURN_IF_ERROR(Find("cuDeviceGetCount", &d.device_count));
  SHOAL_RETURN_IF_ERROR(Find("cuDeviceGetUuid", &d.device_uuid));
  SHOAL_RETURN_IF_ERROR(Find("cuDeviceCanAccessPeer", &d.can_access_peer));
  SHOAL_RETURN_IF_ERROR(Find("cuDeviceGetAttribute", &d.device_attribute));
  SHOAL_RETURN_IF_ERROR(Find("cuMemGetAllocationGranularity", &d.granularity));
  SHOAL_RETURN_IF_ERROR(Find("cuMemCreate", &d.create));
  SHOAL_RETURN_IF_ERROR(Find("cuMemRelease", &d.release));
  SHOAL_RETURN_IF_ERROR(Find("cuMemExportToShareableHandle", &d.export_handle));
  SHOAL_RETURN_IF_ERROR(Find("cuMemImportFromShareableHandle", &d.import_handle));
  SHOAL_RETURN_IF_ERROR(Find("cuMemGetAllocationPropertiesFromHandle", &d.properties));
  SHOAL_RETURN_IF_ERROR(Find("cuMemAddressReserve", &d.reserve));
  SHOAL_RETURN_IF_ERROR(Find("cuMemAddressFree", &d.unreserve));
  SHOAL_RETURN_IF_ERROR(Find("cuMemMap", &d.map));
  SHOAL_RETURN_IF_ERROR(Find("cuMemUnmap", &d.unmap));
  SHOAL_RETURN_IF_ERROR(Find("cuMemSetAccess", &d.set_access));
  return d;
}

// Internal, but for what is no fault of the device's.
absl::Status SharedMemory::Words(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const char *name = nullptr, *words = nullptr;
  if (driver_.error_name(result, &name) != CUDA_SUCCESS || name == nullptr) name = "an error without a name";
  if (driver_.error_string(result, &words) != CUDA_SUCCESS || words == nullptr) words = "the driver says no more";
  const std::string text = absl::StrCat(what, ": ", name, ": ", words);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return absl::ResourceExhaustedError(text);
  return absl::InternalError(text);
}

CUmemAllocationProp SharedMemory::Properties() const {
  CUmemAllocationProp p = {};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  p.location.id = device_;
  return p;
}

absl::Status SharedMemory::CheckDevice() const {
  CUdevice device = 0;
  SHOAL_RETURN_IF_ERROR(Words(driver_.device_get(&device, device_), "cuDeviceGet"));
  for (const CUdevice_attribute needed : {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                          CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED}) {
    int has = 0;
    SHOAL_RETURN_IF_ERROR(Words(driver_.device_attribute(&has, needed, device), "cuDeviceGetAttribute"));
    if (has == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("device ", device_, " has no memory that processes can share by descriptor (attribute ",
                       static_cast<int>(needed), ")"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SharedMemory> SharedMemory::Open(int device) {
  SharedMemory m;
  m.device_ = device;
  SHOAL_ASSIGN_OR_RETURN(m.driver_, FindDriver());
  SHOAL_RETURN_IF_ERROR(m.CheckDevice());
  const CUmemAllocationProp properties = m.Properties();
  // The recommended one, a multiple of the smallest: with large pages.
  SHOAL_RETURN_IF_ERROR(
      m.Words(m.driver_.granularity(&m.granularity_, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
              "cuMemGetAllocationGranularity"));
  return m;
}

absl::StatusOr<ops::Accelerator::SharedHandle> SharedMemory::Create(size_t bytes) const {
  if (bytes == 0) return absl::InvalidArgumentError("shared memory of 0 bytes");
  if (bytes > SIZE_MAX - granularity_) return absl::ResourceExhaustedError("more than there are addresses");
  const size_t rounded = (bytes + granularity_ - 1) / granularity_ * granularity_;
  const CUmemAllocationProp properties = Properties();
  CUmemGenericAllocationHandle handle = 0;
  SHOAL_RETURN_IF_ERROR(Words(driver_.create(&handle, rounded, &properties, 0), "cuMemCreate"));
  int fd = -1;
  const CUresult exported = driver_.export_handle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  (void)driver_.release(handle);  // the descriptor keeps the memory
  SHOAL_RETURN_IF_ERROR(Words(exported, "cuMemExportToShareableHandle"));
  (void)::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return ops::Accelerator::SharedHandle{fd, rounded};
}

absl::StatusOr<CUmemGenericAllocationHandle> SharedMemory::Import(int fd, size_t bytes) const {
  if (fd < 0 || ::fcntl(fd, F_GETFD) < 0) return absl::InvalidArgumentError(absl::StrCat(fd, " is no open descriptor"));
  if (bytes == 0 || bytes % granularity_ != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory of ", bytes, " bytes: it comes in multiples of ", granularity_));
  }
  CUmemGenericAllocationHandle handle = 0;
  const CUresult imported = driver_.import_handle(&handle, reinterpret_cast<void*>(static_cast<uintptr_t>(fd)),
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  if (imported == CUDA_SUCCESS) return handle;
  // The driver names several reasons for a descriptor that is of something else. A broken device shows at the next
  // call.
  return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is not of a device's memory: ",
                                                 Words(imported, "cuMemImportFromShareableHandle").message()));
}

absl::StatusOr<void*> SharedMemory::Map(int fd, size_t bytes) const {
  SHOAL_ASSIGN_OR_RETURN(const CUmemGenericAllocationHandle handle, Import(fd, bytes));
  const absl::Status right = CheckOwner(handle);
  absl::StatusOr<void*> memory = right.ok() ? MapWhole(handle, bytes) : right;
  (void)driver_.release(handle);  // the mapping keeps the memory
  return memory;
}

// Whose it is was told by who sent the descriptor: what the driver's properties call a device of another process, which
// may see others than this one, is nowhere written down.
absl::StatusOr<void*> SharedMemory::MapPeer(int fd, size_t bytes, const ops::Accelerator::DeviceId& owner) const {
  const auto map = [&]() -> absl::StatusOr<void*> {
    SHOAL_RETURN_IF_ERROR(CheckReach(owner));
    SHOAL_ASSIGN_OR_RETURN(const CUmemGenericAllocationHandle handle, Import(fd, bytes));
    absl::StatusOr<void*> memory = MapWhole(handle, bytes);
    (void)driver_.release(handle);
    return memory;
  };
  absl::StatusOr<void*> memory = map();
  if (absl::IsInternal(memory.status())) return absl::FailedPreconditionError(memory.status().message());
  return memory;
}

absl::StatusOr<ops::Accelerator::DeviceId> SharedMemory::Id(int device) const {
  CUdevice named = 0;
  CUuuid uuid = {};
  SHOAL_RETURN_IF_ERROR(Words(driver_.device_get(&named, device), "cuDeviceGet"));
  SHOAL_RETURN_IF_ERROR(Words(driver_.device_uuid(&uuid, named), "cuDeviceGetUuid"));
  ops::Accelerator::DeviceId id;
  static_assert(sizeof id == sizeof uuid);
  std::memcpy(id.data(), &uuid, sizeof uuid);
  return id;
}

// Whether the driver lets this device reach the memory of that one.
absl::Status SharedMemory::CheckReach(const ops::Accelerator::DeviceId& owner) const {
  int count = 0;
  SHOAL_RETURN_IF_ERROR(Words(driver_.device_count(&count), "cuDeviceGetCount"));
  for (int other = 0; other < count; ++other) {
    const absl::StatusOr<ops::Accelerator::DeviceId> id = Id(other);
    if (!id.ok() || *id != owner) continue;
    if (other == device_) return absl::OkStatus();  // no device is called a peer of itself
    CUdevice from = 0, to = 0;
    int reaches = 0;
    SHOAL_RETURN_IF_ERROR(Words(driver_.device_get(&from, device_), "cuDeviceGet"));
    SHOAL_RETURN_IF_ERROR(Words(driver_.device_get(&to, other), "cuDeviceGet"));
    SHOAL_RETURN_IF_ERROR(Words(driver_.can_access_peer(&reaches, from, to), "cuDeviceCanAccessPeer"));
    if (reaches != 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("device ", device_, " does not reach the memory of device ", other, " (cuDeviceCanAccessPeer)"));
  }
  return absl::FailedPreconditionError("the device that the memory is of is not visible to this process");
}

absl::Status SharedMemory::CheckOwner(CUmemGenericAllocationHandle handle) const {
  CUmemAllocationProp properties = {};
  SHOAL_RETURN_IF_ERROR(Words(driver_.properties(&properties, handle), "cuMemGetAllocationPropertiesFromHandle"));
  if (properties.location.type == CU_MEM_LOCATION_TYPE_DEVICE && properties.location.id == device_) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("shared memory of device ", properties.location.id, " (kind ",
                                                 static_cast<int>(properties.location.type), "), not of device ",
                                                 device_));
}

// The driver tells no size, but maps nothing beyond the end: memory of which more can be mapped is larger.
absl::Status SharedMemory::CheckSize(CUmemGenericAllocationHandle handle, size_t bytes) const {
  CUdeviceptr at = 0;
  if (MapRange(handle, bytes + granularity_, &at) != CUDA_SUCCESS) return absl::OkStatus();
  Unmap(reinterpret_cast<void*>(at), bytes + granularity_);
  return absl::InvalidArgumentError(absl::StrCat("shared memory of more than ", bytes, " bytes"));
}

absl::StatusOr<void*> SharedMemory::MapWhole(CUmemGenericAllocationHandle handle, size_t bytes) const {
  SHOAL_RETURN_IF_ERROR(CheckSize(handle, bytes));
  return MapHandle(handle, bytes);
}

// Addresses for `bytes` of `handle`, not yet accessible.
CUresult SharedMemory::MapRange(CUmemGenericAllocationHandle handle, size_t bytes, CUdeviceptr* at) const {
  CUresult result = driver_.reserve(at, bytes, 0, 0, 0);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.map(*at, bytes, 0, handle, 0);
  if (result != CUDA_SUCCESS) (void)driver_.unreserve(*at, bytes);
  return result;
}

absl::StatusOr<void*> SharedMemory::MapHandle(CUmemGenericAllocationHandle handle, size_t bytes) const {
  CUdeviceptr at = 0;
  const CUresult mapped = MapRange(handle, bytes, &at);
  if (mapped == CUDA_ERROR_INVALID_VALUE)
    return absl::InvalidArgumentError(absl::StrCat("shared memory of less than ", bytes, " bytes"));
  SHOAL_RETURN_IF_ERROR(Words(mapped, "cuMemMap"));
  void* memory = reinterpret_cast<void*>(at);
  CUmemAccessDesc access = {};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device_;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const absl::Status accessible = Words(driver_.set_access(at, bytes, &access, 1), "cuMemSetAccess");
  if (!accessible.ok()) {
    Unmap(memory, bytes);
    return accessible;
  }
  return memory;
}

// What the driver says is of no use: a device that has failed says it at the next call.
void SharedMemory::Unmap(void* memory, size_t bytes) const {
  const auto at = reinterpret_cast<CUdeviceptr>(memory);
  (void)driver_.unmap(at, bytes);
  (void)driver_.unreserve(at, bytes);
}

}  // namespace shoal::cuda
