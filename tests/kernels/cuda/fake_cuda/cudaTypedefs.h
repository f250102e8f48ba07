// As much of CUDA's driver as kernels/cuda/shared_memory.cc calls; see cuda_runtime_api.h.
#pragma once

#include <cstddef>

enum CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
};
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUmemGenericAllocationHandle = unsigned long long;

enum CUdevice_attribute {
  CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102,
  CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED = 103,
};
enum CUmemAllocationHandleType { CU_MEM_HANDLE_TYPE_NONE = 0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1 };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_INVALID = 0, CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_INVALID = 0, CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_NONE = 0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1 };
struct CUmemLocation {
  CUmemLocationType type;
  int id;
};
struct CUmemAllocationProp {
  CUmemAllocationType type;
  CUmemAllocationHandleType requestedHandleTypes;
  CUmemLocation location;
};
struct CUmemAccessDesc {
  CUmemLocation location;
  CUmemAccess_flags flags;
};

using PFN_cuGetErrorName_v6000 = CUresult (*)(CUresult, const char**);
using PFN_cuGetErrorString_v6000 = CUresult (*)(CUresult, const char**);
using PFN_cuDeviceGet_v2000 = CUresult (*)(CUdevice*, int);
struct CUuuid {
  char bytes[16];
};
using PFN_cuDeviceGetCount_v2000 = CUresult (*)(int*);
using PFN_cuDeviceGetUuid_v11040 = CUresult (*)(CUuuid*, CUdevice);
using PFN_cuDeviceCanAccessPeer_v4000 = CUresult (*)(int*, CUdevice, CUdevice);
using PFN_cuDeviceGetAttribute_v2000 = CUresult (*)(int*, CUdevice_attribute, CUdevice);
using PFN_cuMemGetAllocationGranularity_v10020 = CUresult (*)(size_t*, const CUmemAllocationProp*,
                                                              CUmemAllocationGranularity_flags);
using PFN_cuMemCreate_v10020 = CUresult (*)(CUmemGenericAllocationHandle*, size_t, const CUmemAllocationProp*,
                                            unsigned long long);
using PFN_cuMemRelease_v10020 = CUresult (*)(CUmemGenericAllocationHandle);
using PFN_cuMemExportToShareableHandle_v10020 = CUresult (*)(void*, CUmemGenericAllocationHandle,
                                                             CUmemAllocationHandleType, unsigned long long);
using PFN_cuMemImportFromShareableHandle_v10020 = CUresult (*)(CUmemGenericAllocationHandle*, void*,
                                                               CUmemAllocationHandleType);
using PFN_cuMemGetAllocationPropertiesFromHandle_v10020 = CUresult (*)(CUmemAllocationProp*,
                                                                       CUmemGenericAllocationHandle);
using PFN_cuMemAddressReserve_v10020 = CUresult (*)(CUdeviceptr*, size_t, size_t, CUdeviceptr, unsigned long long);
using PFN_cuMemAddressFree_v10020 = CUresult (*)(CUdeviceptr, size_t);
using PFN_cuMemMap_v10020 = CUresult (*)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
using PFN_cuMemUnmap_v10020 = CUresult (*)(CUdeviceptr, size_t);
using PFN_cuMemSetAccess_v10020 = CUresult (*)(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t);
