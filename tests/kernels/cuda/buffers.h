// Memory and comparisons for tests of device kernels, which run on the host (kernels/cuda/lang.h).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cuda/lang.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::cuda {

// 128-byte aligned; begins as NaN, so that what was not written shows.
template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t size) : size_(size), bytes_(new(std::align_val_t{128}) uint8_t[size * sizeof(T) + 1]) {
    std::memset(bytes_.get(), 0xff, size * sizeof(T));
  }
  explicit Buffer(const std::vector<float>& values) : Buffer(values.size()) {
    for (size_t i = 0; i < size_; ++i) data()[i] = FromFloat<T>(values[i]);
  }
  T* data() { return reinterpret_cast<T*>(bytes_.get()); }
  size_t size() const { return size_; }
  std::vector<float> Floats() {
    std::vector<float> values(size_);
    for (size_t i = 0; i < size_; ++i) values[i] = ToFloat(data()[i]);
    return values;
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t{128}); }
  };
  size_t size_;
  std::unique_ptr<uint8_t[], Free> bytes_;
};

// Normal values that bf16 has.
inline std::vector<float> RandomBf16(size_t count, uint64_t seed, float deviation = 1) {
  std::vector<float> values = ops::RandomFloats(count, seed, deviation);
  for (float& v : values) v = BF16ToF32(F32ToBF16(v));
  return values;
}

// What one run gives in each order of threads and blocks; it must be the same in all of them.
template <typename T>
std::vector<T> InEveryOrder(const std::function<std::vector<T>()>& run) {
  emulated::SetOrder(emulated::Order::kAscending);
  const std::vector<T> first = run();
  emulated::SetOrder(emulated::Order::kDescending);
  const std::vector<T> second = run();
  emulated::SetOrder(emulated::Order::kShuffled, 7);
  const std::vector<T> third = run();
  emulated::SetOrder(emulated::Order::kAscending);
  EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(T)), 0) << "depends on the order of threads";
  EXPECT_EQ(std::memcmp(first.data(), third.data(), first.size() * sizeof(T)), 0) << "depends on the order of threads";
  return first;
}

}  // namespace shoal::cuda
