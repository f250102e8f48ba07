// Activations between ops: rows in the backend's own type (OpTable::acts: f32 on the CPU, bf16 on a CUDA device). A
// backend takes them for that type; who holds them for others knows only how wide an element is. Non-owning pointers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal::ops {

class ConstActs {
 public:
  constexpr ConstActs(std::nullptr_t = nullptr) {}         // NOLINT: as a pointer
  constexpr ConstActs(const float* data) : data_(data) {}  // NOLINT: what most backends have
  constexpr explicit ConstActs(const void* data) : data_(data) {}
  const void* data() const { return data_; }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  operator const float*() const { return as<float>(); }  // NOLINT

 private:
  const void* data_ = nullptr;
};

class Acts {
 public:
  constexpr Acts(std::nullptr_t = nullptr) {}   // NOLINT
  constexpr Acts(float* data) : data_(data) {}  // NOLINT
  constexpr explicit Acts(void* data) : data_(data) {}
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  operator float*() const { return as<float>(); }                                    // NOLINT
  operator ConstActs() const { return ConstActs(static_cast<const void*>(data_)); }  // NOLINT

 private:
  void* data_ = nullptr;
};

}  // namespace shoal::ops
