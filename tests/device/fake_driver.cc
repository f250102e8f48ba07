// A libcuda.so.1 of CUDA 12.4: as much of one as the CUDA runtime looks at before it gives up.
#include <cstdint>
#include <cstring>

extern "C" {

int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}

int cuInit(unsigned) { return 0; }

int cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* found) {
  constexpr int kNotFound = 500;
  *function = nullptr;
  if (std::strcmp(symbol, "cuDriverGetVersion") == 0) *function = reinterpret_cast<void*>(cuDriverGetVersion);
  if (std::strcmp(symbol, "cuInit") == 0) *function = reinterpret_cast<void*>(cuInit);
  if (std::strcmp(symbol, "cuGetProcAddress") == 0) *function = reinterpret_cast<void*>(cuGetProcAddress_v2);
  if (found != nullptr) *found = *function != nullptr ? 0 : 1;
  return *function != nullptr ? 0 : kNotFound;
}

int cuGetProcAddress(const char* symbol, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}

}  // extern "C"
