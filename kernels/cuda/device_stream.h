// The queue that launches go to: CUDA's own in the plug-in, whose sources that nvcc does not compile have
// SHOAL_CUDA_PLUGIN defined; elsewhere the emulated one.
#pragma once

#if defined(__CUDACC__) || defined(SHOAL_CUDA_PLUGIN)
struct CUstream_st;
namespace shoal::cuda {
using DeviceStream = CUstream_st*;  // a cudaStream_t
}
#else
namespace shoal::cuda {
namespace emulated {
class Queue;
}
using DeviceStream = emulated::Queue*;
}  // namespace shoal::cuda
#endif
