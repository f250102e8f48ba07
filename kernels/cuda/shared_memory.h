// Memory of a device that outlives its process: physical memory of the driver's virtual memory management, as file
// descriptors. The driver's functions are looked up at run time: this library loads where there is no driver. One
// thread, whose current device is the one that the memory is of.
#pragma once

#include <cudaTypedefs.h>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"

namespace shoal::cuda {

class SharedMemory {
 public:
  // FailedPrecondition: this device or driver has no memory that can be shared so.
  static absl::StatusOr<SharedMemory> Open(int device);

  // As ops::Accelerator has them, but that InvalidArgument and ResourceExhausted are without the device's numbers.
  absl::StatusOr<ops::Accelerator::SharedHandle> Create(size_t bytes) const;
  absl::StatusOr<void*> Map(int fd, size_t bytes) const;
  void Unmap(void* memory, size_t bytes) const;
  // Of a device as the runtime numbers them.
  absl::StatusOr<ops::Accelerator::DeviceId> Id(int device) const;
  // As ops::Accelerator has it; whatever else the driver does not do is FailedPrecondition, too.
  absl::StatusOr<void*> MapPeer(int fd, size_t bytes, const ops::Accelerator::DeviceId& owner) const;

 private:
  struct Driver {
    PFN_cuGetErrorName_v6000 error_name;
    PFN_cuGetErrorString_v6000 error_string;
    PFN_cuDeviceGet_v2000 device_get;
    PFN_cuDeviceGetCount_v2000 device_count;
    PFN_cuDeviceGetUuid_v11040 device_uuid;
    PFN_cuDeviceCanAccessPeer_v4000 can_access_peer;
    PFN_cuDeviceGetAttribute_v2000 device_attribute;
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRelease_v10020 release;
    PFN_cuMemExportToShareableHandle_v10020 export_handle;
    PFN_cuMemImportFromShareableHandle_v10020 import_handle;
    PFN_cuMemGetAllocationPropertiesFromHandle_v10020 properties;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 set_access;
  };
  static absl::StatusOr<Driver> FindDriver();
  absl::Status Words(CUresult result, const char* what) const;
  absl::Status CheckDevice() const;
  CUmemAllocationProp Properties() const;
  absl::Status CheckReach(const ops::Accelerator::DeviceId& owner) const;
  absl::StatusOr<CUmemGenericAllocationHandle> Import(int fd, size_t bytes) const;
  absl::Status CheckOwner(CUmemGenericAllocationHandle handle) const;
  absl::Status CheckSize(CUmemGenericAllocationHandle handle, size_t bytes) const;
  absl::StatusOr<void*> MapWhole(CUmemGenericAllocationHandle handle, size_t bytes) const;
  absl::StatusOr<void*> MapHandle(CUmemGenericAllocationHandle handle, size_t bytes) const;
  CUresult MapRange(CUmemGenericAllocationHandle handle, size_t bytes, CUdeviceptr* at) const;

  int device_ = 0;
  size_t granularity_ = 0;
  Driver driver_ = {};
};

}  // namespace shoal::cuda
