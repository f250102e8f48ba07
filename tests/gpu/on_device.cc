// Tested by: tests/gpu/kernels_gpu_test.cc
#include "tests/gpu/on_device.h"

#include <algorithm>

#include "common/base/rng.h"

namespace shoal::gpu {
namespace {

// What RandomWeight does, a word at a time: plain types get exponents near 1, so that sums mean something.
std::vector<uint8_t> RandomCanonical(DType t, int64_t n, int64_t k, uint64_t seed) {
  if (n * k < (1 << 20)) return ops::RandomWeight(t, n, k, seed);
  std::vector<uint8_t> bytes(RowBytes(t, n * k) + 8);
  constexpr int64_t kPiece = 1 << 16;
  const int64_t words = static_cast<int64_t>(bytes.size() / 8);
  ops::ParallelFor(Host(), static_cast<int>((words + kPiece - 1) / kPiece), [&](int piece) {
    for (int64_t w = piece * kPiece; w < std::min(words, (piece + 1) * kPiece); ++w) {
      uint64_t bits = RandomBits(seed, 4, static_cast<uint64_t>(w));
      // Sign, mantissa and the low bits of the exponent are random: 2^-7 to 2 in bf16, 2^-7 to 2 in f16.
      if (t == DType::kBF16) bits = (bits & 0x83ff83ff83ff83ff) | 0x3c003c003c003c00;
      if (t == DType::kF16) bits = (bits & 0x9fff9fff9fff9fff) | 0x2000200020002000;
      std::memcpy(&bytes[static_cast<size_t>(w) * 8], &bits, 8);
    }
  });
  bytes.resize(RowBytes(t, n * k));
  if (t == DType::kF8E4M3) {
    for (uint8_t& code : bytes) code = (code & 127) == 127 ? 0 : code;  // not a number
  }
  if (IsQuantised(t)) ops::SetBlockScales(t, seed, &bytes);
  return bytes;
}

std::vector<uint8_t> PackAll(DType t, const std::vector<uint8_t>& canonical, int n, int k) {
  std::vector<uint8_t> packed(Table().packed_bytes(t, n, k), 0xff);
  const int rows = 64 * Table().row_group;
  ops::ParallelFor(Host(), (n + rows - 1) / rows, [&](int part) {
    const int begin = part * rows, count = std::min(rows, n - begin);
    const uint8_t* from = canonical.data() + RowBytes(t, k) * static_cast<size_t>(begin);
    Table().pack_rows(t, from, begin, count, n, k, packed.data());
  });
  return packed;
}

}  // namespace

std::vector<DType> WeightTypes() {
  std::vector<DType> types = ops::AllDTypes();
  std::erase_if(types, [](DType t) { return !Table().supports(t); });
  return types;
}

DeviceMatrix::DeviceMatrix(DType t, int rows, int columns, uint64_t seed)
    : type(t),
      n(rows),
      k(columns),
      canonical(RandomCanonical(t, rows, columns, seed)),
      packed(PackAll(t, canonical, rows, columns)) {}

std::vector<float> DeviceMatrix::Values(const std::vector<int>& rows) const {
  const auto width = static_cast<size_t>(k);
  std::vector<float> values(rows.size() * width);
  for (size_t i = 0; i < rows.size(); ++i) {
    DequantiseRow(type, canonical.data() + RowBytes(type, k) * static_cast<size_t>(rows[i]), k, &values[i * width]);
  }
  return values;
}

}  // namespace shoal::gpu
