#include "tests/kernels/kernel_test_util.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "common/base/rng.h"

namespace shoal::ops {

std::vector<const OpTable*> FastTables() {
  std::vector<const OpTable*> tables = RunnableOpTables();
  std::erase_if(tables, [](const OpTable* t) { return t->name == "ref" || t->name == "null"; });
  return tables;
}

const OpTable& RefTable() { return **FindOpTable("ref"); }

std::string NameOf(const OpTable& table) {
  std::string name(table.name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<DType> AllDTypes() {
  std::vector<DType> all;
  for (int t = 0; t < kDTypes; ++t) all.push_back(static_cast<DType>(t));
  return all;
}

std::vector<float> RandomFloats(size_t count, uint64_t seed, float deviation) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = RandomBits(seed, 1, i);
    float sum = -2;
    for (int j = 0; j < 4; ++j) sum += static_cast<float>(bits >> (16 * j) & 0xFFFF) / 65536.0f;
    out[i] = sum * 1.7320508f * deviation;  // four uniforms have variance 1/3
  }
  return out;
}

OpSizes LlamaSizes() {
  return {.hidden = 4096,
          .q_dim = 4096,
          .ffn = 14336,
          .head_dim = 128,
          .rot_dim = 128,
          .interleaved = false,
          .vocab = 128256,
          .kv_type = DType::kBF16,
          .block_size = 16};
}

std::vector<uint8_t> RandomWeight(DType t, int64_t n, int64_t k, uint64_t seed) {
  const size_t row = RowBytes(t, k), rows = static_cast<size_t>(n);
  std::vector<uint8_t> out(row * rows);
  if (IsByte(t)) {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<uint8_t>(RandomBits(seed, 2, i));
      if (t == DType::kF8E4M3 && (out[i] & 127) == 127) out[i] = 0;  // not a number
    }
    return out;
  }
  if (!IsQuantised(t)) {
    const std::vector<float> values = RandomFloats(rows * static_cast<size_t>(k), seed);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = t == DType::kF16 ? F32ToF16(values[i]) : F32ToBF16(values[i]);
      t == DType::kF32 ? std::memcpy(&out[4 * i], &values[i], 4) : std::memcpy(&out[2 * i], &half, 2);
    }
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(RandomBits(seed, 2, i));
  SetBlockScales(t, seed, &out);
  return out;
}

void SetBlockScales(DType t, uint64_t seed, std::vector<uint8_t>* canonical) {
  std::vector<uint8_t>& out = *canonical;
  const size_t block = Info(t).block_bytes;
  for (size_t b = 0; b < out.size() / block; ++b) {
    const float vary = 0.5f + static_cast<float>(RandomBits(seed, 3, b) % 1000) / 1000.0f;
    const uint16_t d = F32ToF16(vary * (t == DType::kQ8_0 ? 0.014f : 0.22f)), m = F32ToF16(vary * -1.6f);
    std::memcpy(&out[b * block], &d, 2);
    if (t == DType::kQ4_1) std::memcpy(&out[b * block + 2], &m, 2);
    const uint16_t z = static_cast<uint16_t>(RandomBits(seed, 4, b) % 17);
    if (t == DType::kI4) std::memcpy(&out[b * block + 2], &z, 2);
  }
}

AlignedBytes AllocateAligned(size_t bytes) {
  AlignedBytes p(static_cast<uint8_t*>(::operator new[](bytes + 1, std::align_val_t{64})));
  std::memset(p.get(), 0xFF, bytes);  // NaN in every float type: what is read without having been written shows
  return p;
}

PackedWeight Pack(const OpTable& table, DType t, const std::vector<uint8_t>& canonical, int64_t n, int64_t k) {
  PackedWeight w{AllocateAligned(table.packed_bytes(t, n, k)), {}};
  w.view = {w.bytes.get(), t, n, k};
  // In two calls where the group allows, as a loader does.
  const int64_t first = std::min<int64_t>(n, (n / 2 + table.row_group - 1) / table.row_group * table.row_group);
  if (first > 0) table.pack_rows(t, canonical.data(), 0, first, n, k, w.bytes.get());
  if (first < n) {
    const uint8_t* rest = canonical.data() + RowBytes(t, k) * static_cast<size_t>(first);
    table.pack_rows(t, rest, first, n - first, n, k, w.bytes.get());
  }
  return w;
}

QuantisedRows::QuantisedRows(const std::vector<float>& x, int tokens, int k)
    : q(x.size()), scale(x.size() / kQuantBlock), sum(x.size() / kQuantBlock) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  EXPECT_TRUE(RefTable().quantise(*stream, {.x = x.data(), .out = View(), .tokens = tokens, .k = k}).ok());
}

void ExpectRowsNear(const std::vector<float>& expected, const std::vector<float>& actual, size_t row, float tolerance) {
  ASSERT_EQ(expected.size(), actual.size());
  ASSERT_EQ(expected.size() % row, 0u);
  for (size_t begin = 0; begin < expected.size(); begin += row) {
    float largest = 0, error = 0;
    for (size_t i = begin; i < begin + row; ++i) {
      ASSERT_TRUE(std::isfinite(expected[i]) && std::isfinite(actual[i])) << "at " << i;
      largest = std::max(largest, std::fabs(expected[i]));
      error = std::max(error, std::fabs(expected[i] - actual[i]));
    }
    ASSERT_GT(largest, 0) << "trivial expectation in row " << begin / row;
    if (row > 1) {
      const float first = expected[begin];
      ASSERT_FALSE(std::all_of(&expected[begin], &expected[begin] + row, [&](float x) { return x == first; }))
          << "trivial expectation in row " << begin / row;
    }
    EXPECT_LE(error, tolerance * largest) << "row " << begin / row;
  }
}

std::vector<float> RowsOfStride(const std::vector<float>& all, int n, int stride) {
  std::vector<float> rows;
  for (auto row = all.begin(); row != all.end(); row += stride) {
    rows.insert(rows.end(), row, row + n);
    EXPECT_TRUE(std::all_of(row + n, row + stride, [](float v) { return std::isnan(v); })) << "between rows";
  }
  return rows;
}

void ExpectSameBits(const float* expected, const float* actual, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    ASSERT_EQ(0, std::memcmp(expected + i, actual + i, sizeof(float)))
        << "at " << i << ": " << expected[i] << " and " << actual[i];
  }
}

void ExpectSameBits(const std::vector<float>& expected, const std::vector<float>& actual) {
  ASSERT_EQ(expected.size(), actual.size());
  ExpectSameBits(expected.data(), actual.data(), expected.size());
}

}  // namespace shoal::ops
