// What the suite's tests share: the device, memory on it, and calls of its ops. Ops see device memory alone; values go
// there and come back through device::Device. One device per process, made by main (kernels_gpu_test.cc).
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "kernels/ops/numerics.h"
#include "tests/kernels/kernel_test_util.h"
#include "worker/device/device.h"

namespace shoal::gpu {

// The device under test: until main ends that of --numerics invariant, while there is a UseNumerics that of its.
device::Device& Gpu();
// Nothing of its device may outlive it.
class UseNumerics {
 public:
  explicit UseNumerics(ops::Numerics numerics);
  ~UseNumerics();
  UseNumerics(const UseNumerics&) = delete;
  UseNumerics& operator=(const UseNumerics&) = delete;
  // Not OK: it does not open, and Gpu() is what it was.
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
  std::unique_ptr<device::Device> before_;
};
// Whether sizes of real models fit it. An emulated one gets small ones.
bool Large();
// Different in every run unless SEED in the environment says; a test adds numbers of its own to it.
uint64_t Seed();
// Threads for the reference.
ops::Stream& Host();

// `large` for a device that can, else `tiny`.
template <typename T>
T Sized(T tiny, T large) {
  return Large() ? large : tiny;
}

// Memory on the device with a guard behind it, which Get() looks at. What was not written is 0xff bytes: no number.
template <typename T>
class Array {
 public:
  explicit Array(size_t size) : size_(size) {
    const std::vector<uint8_t> poison(Bytes() + kGuard, 0xff);
    Allocate(poison);
  }
  Array(const T* values, size_t size) : size_(size) {
    std::vector<uint8_t> bytes(Bytes() + kGuard, 0xff);
    if (size > 0) std::memcpy(bytes.data(), values, Bytes());
    Allocate(bytes);
  }
  explicit Array(const std::vector<T>& values) : Array(values.data(), values.size()) {}
  T* data() const { return memory_.as<T>(); }
  size_t size() const { return size_; }
  void Set(const std::vector<T>& values) {
    EXPECT_LE(values.size(), size_);
    const absl::Status up = Gpu().Upload(data(), values.data(), values.size() * sizeof(T));
    EXPECT_TRUE(up.ok()) << up;
  }
  // Waits for what was enqueued.
  std::vector<T> Get() const {
    std::vector<uint8_t> bytes(Bytes() + kGuard);
    const absl::Status down = Gpu().Download(bytes.data(), data(), bytes.size());
    EXPECT_TRUE(down.ok()) << down;
    for (size_t i = Bytes(); i < bytes.size(); ++i) EXPECT_EQ(bytes[i], 0xff) << "written " << i - Bytes() << " beyond";
    std::vector<T> values(size_);
    if (size_ > 0) std::memcpy(values.data(), bytes.data(), Bytes());
    return values;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t Bytes() const { return size_ * sizeof(T); }
  void Allocate(const std::vector<uint8_t>& bytes) {
    auto memory = Gpu().Allocate(bytes.size());
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = std::move(*memory);
    const absl::Status up = Gpu().Upload(memory_.data(), bytes.data(), bytes.size());
    ASSERT_TRUE(up.ok()) << up;
  }

  size_t size_;
  device::Memory memory_;
};

// Activations: bf16, given and taken as floats.
class ActArray {
 public:
  explicit ActArray(size_t size) : bits_(size) {}
  explicit ActArray(const std::vector<float>& values) : bits_(Bits(values)) {}
  ops::Acts acts(size_t at = 0) const { return ops::Acts(static_cast<void*>(bits_.data() + at)); }
  ops::ConstActs in(size_t at = 0) const { return acts(at); }
  uint16_t* data() const { return bits_.data(); }
  size_t size() const { return bits_.size(); }
  void Set(const std::vector<float>& values) { bits_.Set(Bits(values)); }
  std::vector<float> Floats() const {
    const std::vector<uint16_t> bits = bits_.Get();
    std::vector<float> values(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) values[i] = BF16ToF32(bits[i]);
    return values;
  }
  static std::vector<uint16_t> Bits(const std::vector<float>& values) {
    std::vector<uint16_t> bits(values.size());
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = F32ToBF16(values[i]);
    return bits;
  }

 private:
  Array<uint16_t> bits_;
};

// Values as bf16 has them.
inline std::vector<float> Rounded(std::vector<float> values) {
  for (float& v : values) v = BF16ToF32(F32ToBF16(v));
  return values;
}
inline std::vector<float> RandomActs(size_t count, uint64_t seed, float deviation = 1) {
  return Rounded(ops::RandomFloats(count, seed, deviation));
}

// Which ops have been called, and what sees to it that none was forgotten (covered_gpu_test.cc).
void NoteCall(const void* op);
std::unique_ptr<testing::Environment> CheckCalls();
// Enqueues an op of the device.
template <typename Fn, typename Args>
void Call(Fn op, const Args& args) {
  NoteCall(reinterpret_cast<const void*>(op));
  const absl::Status status = op(Gpu().stream(), args);
  EXPECT_TRUE(status.ok()) << status;
}
// Runs an op of the reference.
template <typename Fn, typename Args>
void CallReference(Fn op, const Args& args) {
  const absl::Status status = op(Host(), args);
  EXPECT_TRUE(status.ok()) << status;
}
inline const ops::OpTable& Table() { return Gpu().table(); }

// The types of weights that the device takes.
std::vector<DType> WeightTypes();

// A canonical [n, k] matrix and the device's packing of it. Fresh values of every code; fast enough for real sizes.
struct DeviceMatrix {
  DeviceMatrix(DType type, int n, int k, uint64_t seed);
  ops::Weight view(const float* row_scale = nullptr) const { return {packed.data(), type, n, k, row_scale}; }
  // Rows of it as f32, [rows.size(), k].
  std::vector<float> Values(const std::vector<int>& rows) const;

  const DType type;
  const int n, k;
  std::vector<uint8_t> canonical;
  Array<uint8_t> packed;
};

// A result is rounded to bf16 once: so much of a row's largest value.
inline constexpr float kActTolerance = 8e-3f;

}  // namespace shoal::gpu
