// A rank of nccl_gpu_test.cc, in a process of its own.
#pragma once

#include <string_view>

namespace shoal::gpu {

inline constexpr std::string_view kNcclRank = "nccl-rank";
// Of a program whose first argument that is; further ones: TP PP RANK. Its exit code.
int RunNcclRank(int argc, char** argv);

}  // namespace shoal::gpu
