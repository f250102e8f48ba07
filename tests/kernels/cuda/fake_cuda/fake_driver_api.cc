// The driver's virtual memory management on the emulated device's memory files. A handle is a descriptor of its own,
// which a mapping keeps open; nothing beyond the end is mapped, and nothing is accessible before it was made so.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

#include "common/base/mutex.h"
#include "kernels/cuda/emulated/shared_memory.h"
#include "tests/kernels/cuda/fake_cuda/cudaTypedefs.h"
#include "tests/kernels/cuda/fake_cuda/fake_cuda.h"

namespace shoal::cuda::fake {
namespace {

using emulated::SharedMemory;

constexpr int kDevices = 4;  // fake_cuda.cc's

struct State {
  Mutex mutex;
  std::array<SharedMemory, kDevices> memory = {SharedMemory(0), SharedMemory(1), SharedMemory(2), SharedMemory(3)};
  std::map<CUdeviceptr, size_t> reserved SHOAL_GUARDED_BY(mutex);
  std::map<CUdeviceptr, int> mapped SHOAL_GUARDED_BY(mutex);  // to the descriptor that keeps it
};
State& state() {
  static State all;
  return all;
}

void* At(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

CUresult ErrorName(CUresult, const char** name) { return *name = "CUDA_ERROR_...", CUDA_SUCCESS; }
CUresult ErrorString(CUresult, const char** words) { return *words = "invalid argument", CUDA_SUCCESS; }
CUresult DeviceGet(CUdevice* device, int ordinal) { return *device = 100 + ordinal, CUDA_SUCCESS; }

CUresult DeviceCount(int* count) { return *count = kDevices, CUDA_SUCCESS; }

CUresult DeviceUuid(CUuuid* uuid, CUdevice device) {
  if (device < 100) return CUDA_ERROR_INVALID_VALUE;  // an ordinal is no device
  *uuid = {};
  uuid->bytes[15] = static_cast<char>(device - 100);
  return CUDA_SUCCESS;
}

CUresult CanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  *can = device != peer && settings().reaches_peers ? 1 : 0;
  return CUDA_SUCCESS;
}

CUresult DeviceAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (device < 100) return CUDA_ERROR_INVALID_VALUE;  // an ordinal is no device
  *value = attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED || settings().shares_by_descriptor;
  return CUDA_SUCCESS;
}

CUresult Granularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  return *bytes = SharedMemory::kGranularity, CUDA_SUCCESS;
}

CUresult Create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* p, unsigned long long) {
  if (bytes == 0 || bytes % SharedMemory::kGranularity != 0 || p->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
      p->requestedHandleTypes != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
      p->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  State& s = state();
  const MutexLock lock(s.mutex);
  SharedMemory& memory = s.memory[static_cast<size_t>(p->location.id)];
  if (bytes > (size_t{1} << 30) - memory.used()) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = static_cast<unsigned long long>(memory.Create(bytes)->fd);
  Count(1);
  return CUDA_SUCCESS;
}

CUresult Release(CUmemGenericAllocationHandle handle) {
  Count(-1);
  return ::close(static_cast<int>(handle)) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult Export(void* fd, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType, unsigned long long) {
  const int copy = ::dup(static_cast<int>(handle));  // inherited by a child, unless told otherwise
  std::memcpy(fd, &copy, sizeof copy);
  return CUDA_SUCCESS;
}

// The device of which memory behind this descriptor is; -1: it is not.
int DeviceOf(int fd) {
  for (int device = 0; device < kDevices; ++device) {
    struct stat info = {};
    if (::fstat(fd, &info) != 0) return -1;
    SharedMemory probe(device);
    if (probe.Map(fd, static_cast<size_t>(info.st_size)).ok()) return device;
  }
  return -1;
}

CUresult Import(CUmemGenericAllocationHandle* handle, void* fd, CUmemAllocationHandleType) {
  const int own = static_cast<int>(reinterpret_cast<uintptr_t>(fd));
  if (DeviceOf(own) < 0) return CUDA_ERROR_INVALID_VALUE;
  *handle = static_cast<unsigned long long>(::fcntl(own, F_DUPFD_CLOEXEC, 0));
  Count(1);
  return CUDA_SUCCESS;
}

CUresult PropertiesOf(CUmemAllocationProp* properties, CUmemGenericAllocationHandle handle) {
  *properties = {CU_MEM_ALLOCATION_TYPE_PINNED,
                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                 {CU_MEM_LOCATION_TYPE_DEVICE, DeviceOf(static_cast<int>(handle))}};
  return CUDA_SUCCESS;
}

CUresult Reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  if (bytes == 0 || bytes % SharedMemory::kGranularity != 0) return CUDA_ERROR_INVALID_VALUE;
  void* at = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(at);
  State& s = state();
  const MutexLock lock(s.mutex);
  s.reserved[*address] = bytes;
  Count(1);
  return CUDA_SUCCESS;
}

CUresult Unreserve(CUdeviceptr address, size_t bytes) {
  State& s = state();
  const MutexLock lock(s.mutex);
  const auto range = s.reserved.find(address);
  if (range == s.reserved.end() || range->second != bytes || s.mapped.count(address) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  s.reserved.erase(range);
  Count(-1);
  return ::munmap(At(address), bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult Map(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
  State& s = state();
  const MutexLock lock(s.mutex);
  struct stat info = {};
  const int fd = static_cast<int>(handle);
  if (s.reserved.count(address) == 0 || s.reserved[address] != bytes || ::fstat(fd, &info) != 0 ||
      bytes > static_cast<size_t>(info.st_size)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (::mmap(At(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
    return CUDA_ERROR_OUT_OF_MEMORY;
  s.mapped[address] = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return CUDA_SUCCESS;
}

CUresult Unmap(CUdeviceptr address, size_t bytes) {
  State& s = state();
  const MutexLock lock(s.mutex);
  const auto mapping = s.mapped.find(address);
  if (mapping == s.mapped.end() || s.reserved[address] != bytes) return CUDA_ERROR_INVALID_VALUE;
  ::close(mapping->second);
  s.mapped.erase(mapping);
  ::mmap(At(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}

CUresult SetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access, size_t count) {
  if (count != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_INVALID_VALUE;
  return ::mprotect(At(address), bytes, PROT_READ | PROT_WRITE) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

size_t SharedBytes(int device) {
  State& s = state();
  const MutexLock lock(s.mutex);
  return s.memory[static_cast<size_t>(device)].used();
}

void* FindDriverFunction(const char* name) {
  const std::map<std::string, void*> functions = {
      {"cuGetErrorName", reinterpret_cast<void*>(ErrorName)},
      {"cuGetErrorString", reinterpret_cast<void*>(ErrorString)},
      {"cuDeviceGet", reinterpret_cast<void*>(DeviceGet)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(DeviceCount)},
      {"cuDeviceGetUuid", reinterpret_cast<void*>(DeviceUuid)},
      {"cuDeviceCanAccessPeer", reinterpret_cast<void*>(CanAccessPeer)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(DeviceAttribute)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(Granularity)},
      {"cuMemCreate", reinterpret_cast<void*>(Create)},
      {"cuMemRelease", reinterpret_cast<void*>(Release)},
      {"cuMemExportToShareableHandle", reinterpret_cast<void*>(Export)},
      {"cuMemImportFromShareableHandle", reinterpret_cast<void*>(Import)},
      {"cuMemGetAllocationPropertiesFromHandle", reinterpret_cast<void*>(PropertiesOf)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(Reserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(Unreserve)},
      {"cuMemMap", reinterpret_cast<void*>(Map)},
      {"cuMemUnmap", reinterpret_cast<void*>(Unmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(SetAccess)}};
  const auto found = functions.find(name);
  return found == functions.end() ? nullptr : found->second;
}

}  // namespace shoal::cuda::fake
