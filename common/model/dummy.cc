#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/file.h"
#include "common/model/tensor_table.h"

namespace shoal::model {
namespace {

// Values are made in units that do not depend on the range asked for: four elements of a plain type or of one byte (one
// draw of 64 bits), one block of a quantised type (kDrawsPerBlock draws). Only integers are computed with; each value
// is a small integer times a power of two, rounded once to the stored type.
constexpr int kPlainUnit = 4;
constexpr uint64_t kDrawsPerBlock = 8;  // one for the scale, up to four for the values; a power of two for easy reading

// Integer in [-255, 255] from 16 random bits: triangular, standard deviation 104.5.
int Triangle(uint16_t bits) { return (bits & 255) + (bits >> 8) - 255; }

enum class Kind : uint8_t { kWeight, kNorm, kScaledWeight, kFp8Scale, kInt8Scale };

// Of every tensor, in their order. A scale is a tensor named "<matrix of one byte>_scale".
std::vector<Kind> KindsOf(std::span<const TensorEntry> tensors) {
  absl::flat_hash_map<std::string, size_t> byte_matrices;
  std::vector<Kind> kinds;
  for (const TensorEntry& t : tensors) {
    if (IsByte(t.dtype)) byte_matrices[t.name + "_scale"] = kinds.size();
    kinds.push_back(t.shape.size() == 1 ? Kind::kNorm : Kind::kWeight);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto it = byte_matrices.find(tensors[i].name);
    if (it == byte_matrices.end()) continue;
    kinds[i] = tensors[it->second].dtype == DType::kF8E4M3 ? Kind::kFp8Scale : Kind::kInt8Scale;
    kinds[it->second] = Kind::kScaledWeight;
  }
  return kinds;
}

// Weights: +-0.047, standard deviation 0.019. Norms: 1 +- 0.06. Scales: such that scaled weights, which are Triangle()
// in fp8 and half of it in int8, deviate by 0.019 too.
float PlainValue(uint16_t bits, Kind kind) {
  const int t = Triangle(bits), steps = bits & 15;
  switch (kind) {
    case Kind::kNorm:
      return static_cast<float>(4096 + t) * 0x1p-12f;
    case Kind::kFp8Scale:
      return static_cast<float>(88 + steps) * 0x1p-19f;
    case Kind::kInt8Scale:
      return static_cast<float>(88 + steps) * 0x1p-18f;
    case Kind::kWeight:
    case Kind::kScaledWeight:
      return static_cast<float>(3 * t) * 0x1p-14f;
  }
  return 0;
}

// An int8 without scales, which no checkpoint is known to have, is as large as one with them.
uint8_t ByteValue(DType type, uint16_t bits, Kind kind) {
  const int t = Triangle(bits);
  if (type == DType::kI8) return static_cast<uint8_t>(t / 2);
  return F32ToF8E4M3(kind == Kind::kScaledWeight ? static_cast<float>(t) : PlainValue(bits, kind));
}

class DummyCheckpoint final : public Checkpoint {
 public:
  DummyCheckpoint(std::shared_ptr<const Checkpoint> like, uint64_t seed)
      : like_(std::move(like)), seed_(seed), kinds_(KindsOf(like_->tensors())) {}

  std::span<const TensorEntry> tensors() const override { return like_->tensors(); }
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }
  int64_t file_bytes() const override {
    int64_t sum = 0;
    for (const TensorEntry& t : tensors()) sum += t.bytes;
    return sum;
  }
  uint64_t header_digest() const override { return RandomBits(seed_, like_->header_digest(), 0); }

  absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, offset, dst.size()));
    const int64_t unit_bytes = UnitBytes(tensor.dtype);
    const uint64_t stream = Fnv1a(tensor.name);
    const Kind kind = kinds_[static_cast<size_t>(&tensor - tensors().data())];
    const int64_t end = offset + static_cast<int64_t>(dst.size());
    std::byte unit[64];
    for (int64_t at = offset; at < end;) {
      const int64_t index = at / unit_bytes, begin = at - index * unit_bytes;
      const int64_t count = std::min(unit_bytes - begin, end - at);
      MakeUnit(tensor.dtype, kind, stream, static_cast<uint64_t>(index), unit);
      std::memcpy(dst.data() + (at - offset), unit + begin, static_cast<size_t>(count));
      at += count;
    }
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

 private:
  static int64_t UnitBytes(DType t) {
    return static_cast<int64_t>(IsQuantised(t) ? Info(t).block_bytes : Info(t).block_bytes * kPlainUnit);
  }

  void MakeUnit(DType type, Kind kind, uint64_t stream, uint64_t index, std::byte* out) const {
    if (IsQuantised(type)) return MakeBlock(type, stream, index * kDrawsPerBlock, out);
    uint64_t bits = RandomBits(seed_, stream, index);
    for (int i = 0; i < kPlainUnit; ++i, bits >>= 16) {
      const auto drawn = static_cast<uint16_t>(bits);
      if (IsByte(type)) {
        out[i] = std::byte{ByteValue(type, drawn, kind)};
        continue;
      }
      const float value = PlainValue(drawn, kind);
      const uint16_t half = type == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
      if (type == DType::kF32) {
        std::memcpy(out + i * sizeof(float), &value, sizeof(float));
      } else {
        std::memcpy(out + i * sizeof(half), &half, sizeof(half));
      }
    }
  }

  // Scales lie in [1, 1.25) x a power of two that gives a standard deviation near 0.02; values are symmetric about
  // zero.
  void MakeBlock(DType type, uint64_t stream, uint64_t draw, std::byte* out) const {
    const int steps = static_cast<int>(RandomBits(seed_, stream, draw) & 15);  // d = (64 + steps) / 64 x 2^e
    uint8_t bytes[kQuantBlock];
    const uint64_t draws = type == DType::kQ8_0 ? 4 : 2;  // a byte or half a byte per value
    for (uint64_t i = 0; i < draws; ++i) {
      const uint64_t bits = RandomBits(seed_, stream, draw + 1 + i);
      std::memcpy(bytes + 8 * i, &bits, 8);
    }
    const float mantissa = static_cast<float>(64 + steps);
    if (type == DType::kQ8_0) {
      BlockQ8_0 b = {.d = F32ToF16(mantissa * 0x1p-18f), .q = {}};  // values in [-127, 127], deviation 73
      for (int i = 0; i < kQuantBlock; ++i) b.q[i] = static_cast<int8_t>(bytes[i] == 128 ? 0 : bytes[i]);
      std::memcpy(out, &b, sizeof(b));
    } else if (type == DType::kQ4_0) {
      BlockQ4_0 b = {.d = F32ToF16(mantissa * 0x1p-14f), .q = {}};  // nibbles 1..15 around 8, deviation 4.2
      for (int i = 0; i < kQuantBlock / 2; ++i) {
        const int low = bytes[i] & 15, high = bytes[i] >> 4;
        b.q[i] = static_cast<uint8_t>((low == 0 ? 8 : low) | (high == 0 ? 8 : high) << 4);
      }
      std::memcpy(out, &b, sizeof(b));
    } else {
      BlockQ4_1 b = {.d = F32ToF16(mantissa * 0x1p-14f), .m = F32ToF16(mantissa * -15.0f * 0x1p-15f), .q = {}};
      std::memcpy(b.q, bytes, sizeof(b.q));
      std::memcpy(out, &b, sizeof(b));
    }
  }

  const std::shared_ptr<const Checkpoint> like_;
  const uint64_t seed_;
  const std::vector<Kind> kinds_;  // of tensors()
  mutable std::atomic<int64_t> bytes_read_{0};
};

class ValuelessCheckpoint final : public Checkpoint {
 public:
  ValuelessCheckpoint(const ModelConfig& config, DType dtype, DType matrices) {
    for (const TensorSpec& spec : TensorTable(config)) {
      const bool matrix_of_layer = spec.layer >= 0 && spec.shape.size() == 2;
      Add(spec.hf_name, matrix_of_layer ? matrices : dtype, spec.shape);
      if (matrix_of_layer && IsByte(matrices)) Add(spec.hf_name + "_scale", DType::kF32, {spec.shape[0], 1});
    }
  }

  std::span<const TensorEntry> tensors() const override { return tensors_; }
  absl::Status Read(const TensorEntry& tensor, int64_t, std::span<std::byte>) const override {
    return absl::FailedPreconditionError(absl::StrCat(tensor.name, " has no values: dummy weights were asked for"));
  }
  int64_t bytes_read() const override { return 0; }
  int64_t file_bytes() const override { return 0; }
  uint64_t header_digest() const override {
    uint64_t digest = kFnvBasis;
    for (const TensorEntry& t : tensors_) {
      digest = Fnv1a(absl::StrCat(t.name, ":", std::string(Info(t.dtype).name), ":", absl::StrJoin(t.shape, "x"), "\n"),
                     digest);
    }
    return digest;
  }

 private:
  void Add(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    tensors_.push_back({name, dtype, shape, static_cast<int64_t>(RowBytes(dtype, elements))});
  }

  std::vector<TensorEntry> tensors_;
};

}  // namespace

std::shared_ptr<const Checkpoint> TensorsWithoutValues(const ModelConfig& config, DType dtype, DType matrices) {
  return std::make_shared<ValuelessCheckpoint>(config, dtype, matrices);
}

std::shared_ptr<const Checkpoint> MakeDummyCheckpoint(std::shared_ptr<const Checkpoint> like, uint64_t seed) {
  return std::make_shared<DummyCheckpoint>(std::move(like), seed);
}

}  // namespace shoal::model
