// SHOAL_HD before a function: a CUDA compiler makes it for the device, too. Such a function calls only its like.
#pragma once

#if defined(__CUDACC__)
#define SHOAL_HD __host__ __device__
#else
#define SHOAL_HD
#endif
