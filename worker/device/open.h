// What there is to compute on, by name: the backends that are compiled in, and "cuda", which is the plug-in's.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/cuda_plugin.h"
#include "kernels/ops/numerics.h"
#include "kernels/ops/op_table.h"

namespace shoal::device {

// As EngineOptions::device, slots and `--device` name it.
inline constexpr char kCuda[] = "cuda";

// The plug-in of this program (cuda_plugin.h, BuildId()). Errors: OpenCudaPlugin's. No driver is started. Any thread.
absl::StatusOr<const ops::CudaPlugin*> CudaPlugin();

// The ops called `name`; all but "cuda" have one kind of numerics, the invariant one. "cuda" takes the plug-in and no
// device; errors: CudaPlugin()'s and ops::FindOpTable's.
absl::StatusOr<const ops::OpTable*> FindTable(const std::string& name,
                                              ops::Numerics numerics = ops::Numerics::kInvariant);

// The device `index` of the probe, with a context of this process on it, and FindTable("cuda", numerics)'s ops. Errors:
// CudaPlugin()'s and those of its `open`.
absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenAccelerator(int index,
                                                                  ops::Numerics numerics = ops::Numerics::kInvariant);

}  // namespace shoal::device
