// What kernels/ops/accelerator.h promises, as tests of whatever accelerator a factory makes: the emulated one
// (accelerator_test.cc), and a device's where there is one (device_accelerator_test.cc).
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "kernels/ops/accelerator.h"

namespace shoal::cuda {

struct AcceleratorKind {
  std::string name;
  std::function<std::unique_ptr<ops::Accelerator>()> make;  // null: there is none here, and the tests are skipped
  std::string peer;  // accelerator_peer.cc, with accelerators that share memory with these
};
inline void PrintTo(const AcceleratorKind& kind, std::ostream* out) { *out << kind.name; }

class AcceleratorContract : public ::testing::TestWithParam<AcceleratorKind> {
 protected:
  void SetUp() override;
  ops::Accelerator& accelerator() { return *accelerator_; }

  std::unique_ptr<ops::Accelerator> accelerator_;
};

// Memory of an accelerator, for a test.
class Piece {
 public:
  enum Kind { kDevice, kPinned };
  Piece(ops::Accelerator& of, Kind kind, size_t bytes);
  ~Piece();
  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }
  // As pinned memory: all bytes one value; whether they are.
  void Set(uint8_t byte);
  bool Is(uint8_t byte) const;

 private:
  ops::Accelerator& of_;
  const Kind kind_;
  const size_t bytes_;
  std::byte* data_ = nullptr;
};

// Shared memory that was created, until its descriptor is closed here.
class SharedFile {
 public:
  SharedFile(ops::Accelerator& of, size_t bytes);
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  ~SharedFile() { Close(); }
  int fd() const { return handle_.fd; }
  size_t size() const { return handle_.bytes; }
  void Close();

 private:
  ops::Accelerator::SharedHandle handle_;
};

}  // namespace shoal::cuda
