// Inputs and comparisons shared by the kernel tests. All inputs come from a counter-based generator: a failure repeats.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops/backends.h"

namespace shoal::ops {

// The tables of real arithmetic other than the reference that this machine can run.
std::vector<const OpTable*> FastTables();
const OpTable& RefTable();
// For test names: the table's name with '_' for '-'.
std::string NameOf(const OpTable& table);
std::vector<DType> AllDTypes();

// Roughly normal with the given deviation (a sum of four uniforms).
std::vector<float> RandomFloats(size_t count, uint64_t seed, float deviation = 1);
// A canonical [n, k] matrix. Of types of one byte and of quantised types every code that is a number occurs; the values
// of all but those of one byte have a deviation of about 1.
std::vector<uint8_t> RandomWeight(DType t, int64_t n, int64_t k, uint64_t seed);
// What makes a quantised one of random bytes: scales, minima and zero points.
void SetBlockScales(DType t, uint64_t seed, std::vector<uint8_t>* canonical);

// What a decoder asks of a table for a model like Llama-3.1-8B.
OpSizes LlamaSizes();

// 64-byte aligned bytes.
struct AlignedDelete {
  void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<uint8_t[], AlignedDelete>;
AlignedBytes AllocateAligned(size_t bytes);

// A weight packed by `table`.
struct PackedWeight {
  AlignedBytes bytes;
  Weight view;
};
PackedWeight Pack(const OpTable& table, DType t, const std::vector<uint8_t>& canonical, int64_t n, int64_t k);

// x [tokens, k], quantised by the reference.
struct QuantisedRows {
  QuantisedRows(const std::vector<float>& x, int tokens, int k);
  std::vector<int8_t> q;
  std::vector<float> scale, sum;
  QuantisedActs View() { return {q.data(), scale.data(), sum.data()}; }
};

// Each row of `row` values differs by at most `tolerance` of the row's largest expected value. Also fails when the
// expectation is trivial: a row that is all zeros or all equal (for row > 1).
void ExpectRowsNear(const std::vector<float>& expected, const std::vector<float>& actual, size_t row, float tolerance);

// The first `n` of each `stride` values; those between are to be no numbers: nobody has written them.
std::vector<float> RowsOfStride(const std::vector<float>& all, int n, int stride);

// The same bytes.
void ExpectSameBits(const std::vector<float>& expected, const std::vector<float>& actual);
void ExpectSameBits(const float* expected, const float* actual, size_t count);

}  // namespace shoal::ops
