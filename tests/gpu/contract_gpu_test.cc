// The device as an accelerator. Its peer, another process, lies beside this binary.
#include <filesystem>

#include "tests/kernels/cuda/accelerator_contract.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::cuda {
namespace {

std::string Peer() { return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "gpu_peer"; }

INSTANTIATE_TEST_SUITE_P(Gpu, AcceleratorContract,
                         ::testing::Values(AcceleratorKind{"device", [] { return MakeTestAccelerator(); }, Peer()}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace shoal::cuda
