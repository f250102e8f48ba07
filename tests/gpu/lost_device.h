// For programs of tests: a test that ruins the device for its process, as an illegal access does, ends the program, and
// tests/gpu/run has the others run by another one. Else they would all fail, too.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/gpu/gpu_plugin.h"

namespace shoal::gpu {

class EndsWithItsDevice final : public testing::EmptyTestEventListener {
 public:
  void OnTestEnd(const testing::TestInfo& test) override {
    if (!test.result()->Failed()) return;
    const auto another = OpenAccelerator();  // of the same process: what is broken for one is for all
    const absl::Status usable = another.ok() ? (*another)->Synchronise() : another.status();
    if (usable.ok()) return;
    std::printf("the device is lost to this process: %s\n", std::string(usable.message()).c_str());
    std::fflush(stdout);
    std::_Exit(1);  // what is on the device can no longer be given back
  }
};

}  // namespace shoal::gpu
