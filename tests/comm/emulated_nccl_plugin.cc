// NCCL of the plug-in with emulated devices (tests/kernels/cuda/emulated_plugin.cc), so that the whole program runs
// over it, several processes of one host.
#include "tests/comm/emulated_nccl.h"

__attribute__((visibility("default"))) shoal::comm::NcclApi* shoal_nccl() {
  static auto* const world = new shoal::comm::NcclWorld;
  static auto* const api = shoal::comm::MakeEmulatedNccl(world).release();
  return api;
}
