// Tested by: tests/model/dummy_test.cc
#include "common/base/dummy_values.h"

#include <algorithm>

namespace shoal {
namespace {

template <typename T>
void PutAt(std::byte* out, int i, T value) {
  std::memcpy(out + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
}

template <typename Block>
void PutBlock(const DummyTensor& t, uint64_t index, std::byte* out) {
  Block b;
  MakeDummyBlock(t, index, &b);
  std::memcpy(out, &b, sizeof(b));
}

void MakeUnit(const DummyTensor& t, uint64_t index, std::byte* out) {
  if (t.type == DType::kQ8_0) return PutBlock<BlockQ8_0>(t, index, out);
  if (t.type == DType::kQ4_0) return PutBlock<BlockQ4_0>(t, index, out);
  if (t.type == DType::kQ4_1) return PutBlock<BlockQ4_1>(t, index, out);
  if (t.type == DType::kI4) return PutBlock<BlockI4>(t, index, out);
  const uint64_t unit = DummyBits(t, index);
  for (int i = 0; i < kDummyUnit; ++i) {
    const uint16_t bits = DummyBitsOf(unit, static_cast<uint64_t>(i));
    if (IsByte(t.type)) PutAt(out, i, DummyByte(t.type, bits, t.kind));
    if (t.type == DType::kF32) PutAt(out, i, DummyPlain(bits, t.kind));
    if (t.type == DType::kF16) PutAt(out, i, RoundToF16(DummyPlain(bits, t.kind)));
    if (t.type == DType::kBF16) PutAt(out, i, RoundToBF16(DummyPlain(bits, t.kind)));
  }
}

}  // namespace

void DummyBytes(const DummyTensor& tensor, int64_t offset, std::span<std::byte> dst) {
  const size_t block_bytes = Info(tensor.type).block_bytes;
  const auto unit_bytes = static_cast<int64_t>(IsQuantised(tensor.type) ? block_bytes : block_bytes * kDummyUnit);
  const int64_t end = offset + static_cast<int64_t>(dst.size());
  std::byte unit[64];
  for (int64_t at = offset; at < end;) {
    const int64_t index = at / unit_bytes, begin = at - index * unit_bytes;
    const int64_t count = std::min(unit_bytes - begin, end - at);
    MakeUnit(tensor, static_cast<uint64_t>(index), unit);
    std::memcpy(dst.data() + (at - offset), unit + begin, static_cast<size_t>(count));
    at += count;
  }
}

}  // namespace shoal
