#include <atomic>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/dummy_values.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/file.h"
#include "common/model/tensor_table.h"

namespace shoal::model {
namespace {

// A vector that is none to be added.
bool IsNorm(const TensorEntry& t) {
  return t.shape.size() == 1 && !absl::EndsWith(t.name, ".bias") && t.name != RoleName(Role::kTokenType);
}

// Of every tensor, in their order. A scale is a tensor named "<matrix of one byte>_scale".
std::vector<DummyKind> KindsOf(std::span<const TensorEntry> tensors) {
  absl::flat_hash_map<std::string, size_t> byte_matrices;
  std::vector<DummyKind> kinds;
  for (const TensorEntry& t : tensors) {
    if (IsByte(t.dtype)) byte_matrices[t.name + "_scale"] = kinds.size();
    kinds.push_back(IsNorm(t) ? DummyKind::kNorm : DummyKind::kWeight);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto it = byte_matrices.find(tensors[i].name);
    if (it == byte_matrices.end()) continue;
    kinds[i] = tensors[it->second].dtype == DType::kF8E4M3 ? DummyKind::kFp8Scale : DummyKind::kInt8Scale;
    kinds[it->second] = DummyKind::kScaledWeight;
  }
  return kinds;
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
    DummyBytes(*Dummy(tensor), offset, dst);
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

  std::optional<DummyTensor> Dummy(const TensorEntry& tensor) const override {
    const DummyKind kind = kinds_[static_cast<size_t>(&tensor - tensors().data())];
    return DummyTensor{.seed = seed_, .stream = Fnv1a(tensor.name), .type = tensor.dtype, .kind = kind};
  }

 private:
  const std::shared_ptr<const Checkpoint> like_;
  const uint64_t seed_;
  const std::vector<DummyKind> kinds_;  // of tensors()
  mutable std::atomic<int64_t> bytes_read_{0};
};

class ValuelessCheckpoint final : public Checkpoint {
 public:
  ValuelessCheckpoint(const ModelConfig& config, DType dtype, DType matrices) {
    for (const TensorSpec& spec : TensorTable(config)) {
      const bool narrow = spec.is_layer_matrix();
      Add(spec.name, narrow ? matrices : dtype, spec.shape);
      if (narrow && IsByte(matrices)) Add(spec.name + "_scale", DType::kF32, {spec.shape[0], 1});
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
