// Timings on a device, in shapes of an 8B model in bf16 and a 70B one in fp8: of each op, or of whole steps of the
// decoder and the engine.   bench_gpu ops|steps [--fast] [--quick]
// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs it on small sizes)
#include <cstdio>
#include <string>

#include "tests/gpu/bench.h"
#include "tests/gpu/gpu_plugin.h"

namespace shoal::gpu {
namespace {

int Run(const std::string& what, const BenchOptions& options) {
  auto accelerator = OpenAccelerator(options.numerics);
  if (!accelerator.ok()) return ReportNotOpened(accelerator.status());
  std::printf("%s\n", DescribeDevice().c_str());
  Bench bench(std::move(*accelerator), options);
  (void)bench.CopyRate();
  if (what == "ops") {
    MeasureOps(bench);
  } else {
    MeasureSteps(bench);
  }
  std::printf("figure: timings %d %s\n", bench.measured(), what.c_str());
  return 0;
}

}  // namespace
}  // namespace shoal::gpu

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  shoal::gpu::BenchOptions options;
  bool known = what == "ops" || what == "steps";
  for (int i = 2; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--quick") {
      options.quick = true;
    } else if (option == "--fast") {
      options.numerics = shoal::ops::Numerics::kFast;
    } else {
      known = false;
    }
  }
  if (known) return shoal::gpu::Run(what, options);
  std::fprintf(stderr, "usage: bench_gpu ops|steps [--fast] [--quick]\n");
  return 2;
}
