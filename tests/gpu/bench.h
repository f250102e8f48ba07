// What the timings share: the device, numbers in its memory, the clock, and figures for `run` to read. A measurement
// that cannot be made ends the program. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/numerics.h"
#include "tests/gpu/library_product.h"
#include "worker/device/device.h"

namespace shoal::gpu {

void Must(const absl::Status& status, const std::string& what);
template <typename T>
T Must(absl::StatusOr<T> value, const std::string& what) {
  Must(value.status(), what);
  return std::move(*value);
}

// A model, as far as its speed goes.
struct Shape {
  std::string name;
  DType type;  // of the matrices inside its layers; embedding and head are bf16
  int layers, hidden, q_heads, kv_heads, head_dim, ffn, vocab;
  int q_dim() const { return q_heads * head_dim; }
  int kv_dim() const { return kv_heads * head_dim; }
};

struct BenchOptions {
  bool quick = false;
  ops::Numerics numerics = ops::Numerics::kInvariant;
};

class Bench {
 public:
  Bench(std::unique_ptr<ops::Accelerator> accelerator, const BenchOptions& options);

  const BenchOptions& options() const { return options_; }
  // A device of real sizes. Any other is emulated: it has no speed, and gets no figures.
  bool large() const { return large_; }
  // 8B in bf16 and 70B in fp8, or tiny ones.
  std::vector<Shape> Shapes() const;

  ops::Accelerator& accelerator() const { return *accelerator_; }
  device::Device& device() const { return *device_; }
  const ops::OpTable& table() const { return device_->table(); }
  ops::Stream& stream() const { return device_->stream(); }
  // Null, and why has been said: there is no cuBLASLt.
  LibraryProduct* library() const { return library_.get(); }

  // Numbers of about 0.05 in bf16, or of about 1 in fp8: all of the memory's own, so that no two parts of it are one in
  // a cache. Others each time, but those of one seed.
  device::Memory Random(size_t bytes, DType type = DType::kBF16, uint64_t seed = 0);
  template <typename T>
  device::Memory Upload(const std::vector<T>& values) {
    device::Memory memory = Must(device_->Allocate(values.size() * sizeof(T)), "memory");
    Must(device_->Upload(memory.data(), values.data(), memory.size()), "upload");
    return memory;
  }

  // Of one of `count` that are recorded together and launched again and again; the best of three times of the wall
  // clock, which stops at a mark. enqueue(i) is called once before.
  double SecondsOf(const std::function<absl::Status(int)>& enqueue, int count);
  // Of a product of cuBLASLt on weights in turn. 0: it has none.
  double LibrarySeconds(DType type, int64_t tokens, int64_t n, int64_t k);
  // Bytes per second of a copy on the device, reads and writes counted; measured at the first call.
  double CopyRate();

  void Figure(const std::string& name, double value, const char* unit) const;
  void Count() { ++measured_; }
  int measured() const { return measured_; }

 private:
  void Wait();

  ops::Accelerator* const accelerator_;
  const std::unique_ptr<device::Device> device_;
  const BenchOptions options_;
  const bool large_;
  std::unique_ptr<LibraryProduct> library_;
  std::map<DType, device::Memory> numbers_;  // what Random() copies
  uint64_t turn_ = 0;
  double copy_ = 0;
  int measured_ = 0;
};

// Bytes of weights in turn, so that no device's L2 holds them.
inline constexpr size_t kRotateBytes = size_t{256} << 20;
int SetsOf(const Bench& bench, size_t bytes);

inline ops::Acts ActsOf(const device::Memory& memory) { return ops::Acts(static_cast<void*>(memory.data())); }

// Each op of the models' layers (bench_ops.cc), and whole steps (bench_steps.cc).
void MeasureOps(Bench& bench);
void MeasureSteps(Bench& bench);

}  // namespace shoal::gpu
