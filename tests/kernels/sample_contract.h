// What every implementation of ops/sample.h owes its rows with penalties, masks and log-probabilities. A test program
// compiles sample_contract.cc and instantiates the suite with its kinds.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "tests/kernels/sample_batch.h"

namespace shoal::ops {

struct SampleKind {
  std::string name;
  std::function<SampleResults(const SampleBatch&)> run;
};
inline void PrintTo(const SampleKind& kind, std::ostream* out) { *out << kind.name; }
class SampleContract : public testing::TestWithParam<SampleKind> {};

}  // namespace shoal::ops
