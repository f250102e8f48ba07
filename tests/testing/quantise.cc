#include "tests/testing/quantise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/check.h"

namespace shoal::testing {
namespace {

int Nearest(float x, float d, int low, int high) {
  return d == 0 ? std::clamp(0, low, high) : std::clamp(static_cast<int>(std::lround(x / d)), low, high);
}

float Largest(std::span<const float> x) {
  float m = 0;
  for (const float v : x) m = std::max(m, std::abs(v));
  return m;
}

template <typename Block>
void Append(const Block& b, std::string* out) {
  out->append(reinterpret_cast<const char*>(&b), sizeof(b));
}

void AppendQ8_0(std::span<const float> x, std::string* out) {
  BlockQ8_0 b = {.d = F32ToF16(Largest(x) / 127), .q = {}};
  for (int i = 0; i < kQuantBlock; ++i) b.q[i] = static_cast<int8_t>(Nearest(x[i], F16ToF32(b.d), -127, 127));
  Append(b, out);
}

void AppendQ4_0(std::span<const float> x, std::string* out) {
  BlockQ4_0 b = {.d = F32ToF16(Largest(x) / 7), .q = {}};
  const auto code = [&](int i) { return Nearest(x[i], F16ToF32(b.d), -8, 7) + 8; };
  for (int i = 0; i < kQuantBlock / 2; ++i) b.q[i] = static_cast<uint8_t>(code(i) | code(i + kQuantBlock / 2) << 4);
  Append(b, out);
}

void AppendQ4_1(std::span<const float> x, std::string* out) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  BlockQ4_1 b = {.d = F32ToF16((*high - *low) / 15), .m = F32ToF16(*low), .q = {}};
  const auto code = [&](int i) { return Nearest(x[i] - F16ToF32(b.m), F16ToF32(b.d), 0, 15); };
  for (int i = 0; i < kQuantBlock / 2; ++i) b.q[i] = static_cast<uint8_t>(code(i) | code(i + kQuantBlock / 2) << 4);
  Append(b, out);
}

void AppendI4(std::span<const float> x, std::string* out) {
  const float low = std::min(0.0f, *std::min_element(x.begin(), x.end()));
  const float high = std::max(0.0f, *std::max_element(x.begin(), x.end()));
  BlockI4 b = {.d = F32ToF16((high - low) / 15), .z = 0, .q = {}};
  const float d = F16ToF32(b.d);
  b.z = static_cast<uint16_t>(Nearest(-low, d, 0, 15));
  const auto code = [&](int i) { return Nearest(x[i], d, -b.z, 15 - b.z) + b.z; };
  for (int i = 0; i < kQuantBlock / 2; ++i) b.q[i] = static_cast<uint8_t>(code(i) | code(i + kQuantBlock / 2) << 4);
  Append(b, out);
}

}  // namespace

std::string Stored(DType t, std::span<const float> values) {
  SHOAL_CHECK(values.size() % static_cast<size_t>(Info(t).block) == 0);
  std::string out;
  if (!IsQuantised(t)) {
    for (const float v : values) {
      if (t == DType::kF32) {
        Append(v, &out);
      } else if (t == DType::kF8E4M3) {
        Append(F32ToF8E4M3(v), &out);
      } else if (t == DType::kI8) {
        Append(static_cast<int8_t>(Nearest(v, 1, -128, 127)), &out);
      } else {
        Append(t == DType::kF16 ? F32ToF16(v) : F32ToBF16(v), &out);
      }
    }
    return out;
  }
  for (size_t at = 0; at < values.size(); at += kQuantBlock) {
    const auto block = values.subspan(at, kQuantBlock);
    if (t == DType::kQ8_0) AppendQ8_0(block, &out);
    if (t == DType::kQ4_0) AppendQ4_0(block, &out);
    if (t == DType::kQ4_1) AppendQ4_1(block, &out);
    if (t == DType::kI4) AppendI4(block, &out);
  }
  return out;
}

StoredRows StoredByRows(DType t, std::span<const float> values, int64_t columns) {
  SHOAL_CHECK(IsByte(t));
  StoredRows out;
  const auto width = static_cast<size_t>(columns);
  for (size_t at = 0; at < values.size(); at += width) {
    std::vector<float> row(values.begin() + static_cast<int64_t>(at),
                           values.begin() + static_cast<int64_t>(at + width));
    const float scale = Largest(row) / (t == DType::kI8 ? 127.0f : 448.0f);
    for (float& v : row) v /= scale;
    out.codes += Stored(t, row);
    out.scales.push_back(scale);
  }
  return out;
}

}  // namespace shoal::testing
