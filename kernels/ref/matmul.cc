#include "kernels/ops/matmul.h"

#include <vector>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

// The integer weights of one block, and its scale and minimum.
struct Block {
  int q[kQuantBlock];
  double d, m;
};

Block Unpack(DType t, const void* row, int64_t b) {
  Block out{};
  const auto nibble = [](const uint8_t* q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; };
  if (t == DType::kQ8_0) {
    const auto& w = static_cast<const BlockQ8_0*>(row)[b];
    out.d = F16ToF32(w.d);
    for (int i = 0; i < kQuantBlock; ++i) out.q[i] = w.q[i];
  } else if (t == DType::kI4) {
    const auto& w = static_cast<const BlockI4*>(row)[b];
    out.d = F16ToF32(w.d);
    for (int i = 0; i < kQuantBlock; ++i) out.q[i] = nibble(w.q, i) - w.z;
  } else if (t == DType::kQ4_0) {
    const auto& w = static_cast<const BlockQ4_0*>(row)[b];
    out.d = F16ToF32(w.d);
    for (int i = 0; i < kQuantBlock; ++i) out.q[i] = nibble(w.q, i) - 8;
  } else {
    const auto& w = static_cast<const BlockQ4_1*>(row)[b];
    out.d = F16ToF32(w.d);
    out.m = F16ToF32(w.m);
    for (int i = 0; i < kQuantBlock; ++i) out.q[i] = nibble(w.q, i);
  }
  return out;
}

float Scaled(const Weight& w, int64_t n, double sum) {
  const float rounded = static_cast<float>(sum);
  const float scaled = w.row_scale == nullptr ? rounded : rounded * w.row_scale[n];
  return w.bias == nullptr ? scaled : scaled + w.bias[n];
}

void QuantisedRow(const MatmulArgs& a, const MatmulPart& part, int64_t n) {
  const int64_t blocks = a.k / kQuantBlock;
  const void* row = static_cast<const char*>(part.w.data) + RowBytes(part.w.dtype, a.k) * static_cast<size_t>(n);
  std::vector<Block> w(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) w[static_cast<size_t>(b)] = Unpack(part.w.dtype, row, b);
  for (int64_t t = 0; t < a.tokens; ++t) {
    double acc = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const Block& block = w[static_cast<size_t>(b)];
      const int8_t* q = a.xq->q + t * a.k + b * kQuantBlock;
      int dot = 0;
      for (int i = 0; i < kQuantBlock; ++i) dot += block.q[i] * q[i];
      acc += block.d * a.xq->scale[t * blocks + b] * dot + block.m * a.xq->sum[t * blocks + b];
    }
    part.y[t * part.y_stride + n] = Scaled(part.w, n, acc);
  }
}

void PlainRow(const MatmulArgs& a, const MatmulPart& part, int64_t n) {
  std::vector<float> w(static_cast<size_t>(a.k));
  const void* row = static_cast<const char*>(part.w.data) + RowBytes(part.w.dtype, a.k) * static_cast<size_t>(n);
  DequantiseRow(part.w.dtype, row, a.k, w.data());
  for (int64_t t = 0; t < a.tokens; ++t) {
    double acc = 0;
    for (int k = 0; k < a.k; ++k) acc += static_cast<double>(a.x[t * a.k + k]) * w[static_cast<size_t>(k)];
    part.y[t * part.y_stride + n] = Scaled(part.w, n, acc);
  }
}

}  // namespace

absl::Status Matmul(Stream& stream, const MatmulArgs& a) {
  for (int p = 0; p < a.part_count; ++p) {
    const bool quantised = IsQuantised(a.parts[p].w.dtype);
    if (a.parts[p].w.k != a.k) return absl::InvalidArgumentError("matmul: a part's k differs from the input's");
    if (quantised ? a.xq == nullptr : a.x == nullptr) return absl::InvalidArgumentError("matmul: input missing");
  }
  for (int p = 0; p < a.part_count; ++p) {
    const bool quantised = IsQuantised(a.parts[p].w.dtype);
    ParallelFor(stream, static_cast<int>(a.parts[p].w.n),
                [&](int n) { quantised ? QuantisedRow(a, a.parts[p], n) : PlainRow(a, a.parts[p], n); });
  }
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
