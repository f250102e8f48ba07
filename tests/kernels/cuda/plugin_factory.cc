// Device 0 of the plug-in CUDA_PLUGIN, whichever build of the program that belongs to; "": none was built.
#include <dlfcn.h>

#include <cstdio>
#include <string>

#include "kernels/ops/cuda_plugin.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {

std::unique_ptr<ops::Accelerator> MakeTestAccelerator(bool, ops::Numerics numerics) {
  if (std::string(CUDA_PLUGIN).empty()) return nullptr;
  void* library = ::dlopen(CUDA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  void* entry = library == nullptr ? nullptr : ::dlsym(library, ops::kCudaPluginEntry);
  if (entry == nullptr) {
    std::fprintf(stderr, "%s\n", ::dlerror());
    return nullptr;
  }
  const ops::CudaPlugin* plugin = reinterpret_cast<decltype(&shoal_cuda_plugin)>(entry)();
  std::unique_ptr<ops::Accelerator> accelerator;
  const absl::Status opened = plugin->open(0, numerics, &accelerator);
  if (!opened.ok()) std::fprintf(stderr, "%s\n", opened.ToString().c_str());
  return accelerator;
}

}  // namespace shoal::cuda
