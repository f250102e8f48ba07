// The decoder's own declarations, shared by its sources: decoder.cc (what happens once or around the layers), layer.cc.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "worker/graph/decoder.h"
#include "worker/graph/rope_table.h"
#include "worker/graph/scratch.h"
#include "worker/graph/staged_batch.h"

namespace shoal::graph {

// What does not change from step to step.
struct DecoderParts {
  model::ModelConfig config;
  plan::RankShard shard;
  DecoderOptions options;
  device::Device* device;
  const ops::OpTable* table;  // the device's
  ops::Stream* stream;        // the device's
  const weights::ModelWeights* weights;
  std::vector<ops::KvLayer> kv;
  comm::TensorChannel* tensor;
  OperationLog* operations;
  std::vector<int32_t> vocab_widths;  // [tensor ranks]: columns of logits each of them has
};

class DecoderImpl final : public Decoder {
 public:
  DecoderImpl(DecoderParts parts, Scratch scratch, StagedBatch staged, device::Memory q_to_kv);

  absl::Status Begin(const Batch& batch) override;
  const StagedBatch& staged() const override { return b_; }
  std::span<std::byte> residual() override;
  absl::Status Embed() override;
  absl::Status Forward() override;
  std::span<const uint64_t> sums() const override {
    return {s_.sums, b_.checksum() ? static_cast<size_t>(folds_) * ops::kChecksumParts : 0};
  }
  absl::StatusOr<std::span<const float>> Logits() override;

 private:
  // One layer. The feed-forward output of the layer before is not joined to x yet: `pending` is it, or null.
  absl::Status Layer(const weights::LayerWeights& w, const ops::KvLayer& cache, ops::ConstActs pending);
  absl::Status AttentionBlock(const weights::LayerWeights& w, const ops::KvLayer& cache, ops::ConstActs pending);
  absl::Status WriteCache(const ops::KvLayer& cache);
  absl::Status Attend(const ops::KvLayer& cache);
  absl::Status Activate();
  absl::Status FeedForwardBlock(const weights::LayerWeights& w);

  // x += add (when set); y = norm(x) * w.
  absl::Status Norm(Operation op, ops::Acts x, ops::ConstActs add, const float* w, ops::Acts y, int tokens);
  // y_i = x * w_i for all weights at once; x is quantised first when one of them is.
  struct Product {
    const ops::Weight& w;
    ops::Acts y;
  };
  absl::Status Multiply(Operation op, ops::ConstActs x, int tokens, int64_t k, std::initializer_list<Product> products);
  absl::Status Reduce(Operation op, ops::Acts data, int tokens);
  // Takes [tokens, hidden] into the checksum, when the batch wants one.
  absl::Status Fold(ops::ConstActs rows);

  // Row `row` of rows that are `width` wide.
  ops::Acts Row(ops::Acts rows, int64_t row, int64_t width) const {
    return ops::Acts(static_cast<void*>(rows.as<std::byte>() + row * width * act_bytes_));
  }
  ops::ConstActs Row(ops::ConstActs rows, int64_t row, int64_t width) const {
    return ops::ConstActs(static_cast<const void*>(rows.as<std::byte>() + row * width * act_bytes_));
  }

  // fn(begin, count) for parts of [0, rows), in order: on a host, so many as an op may take at once; else all.
  template <typename F>
  absl::Status InParts(int rows, F fn) {
    const int part = p_.device->is_host() ? kRowsPerCall : std::max(rows, 1);
    for (int begin = 0; begin < rows; begin += part) {
      if (absl::Status s = fn(begin, std::min(part, rows - begin)); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  void Start(Operation op) { p_.operations->Begin(op); }
  int64_t q_dim() const { return int64_t{p_.shard.heads.size()} * p_.config.head_dim; }
  int64_t kv_dim() const { return int64_t{p_.shard.kv_heads.size()} * p_.config.head_dim; }

  const DecoderParts p_;
  const Scratch s_;
  const int64_t act_bytes_;  // of one activation
  StagedBatch b_;
  const int32_t* last_ = nullptr;  // of the batch
  const device::Memory q_to_kv_;   // int32 [local heads] -> local kv head
  int folds_ = 0;                  // checksums of the batch
};

}  // namespace shoal::graph
