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
  absl::StatusOr<std::span<const float>> Pooled() override;
  absl::StatusOr<std::span<const float>> Logits() override;

 private:
  // One of this rank's layers.
  struct Layer {
    const weights::LayerWeights& w;
    const ops::KvLayer& cache;
    const model::LayerKind kind;
  };
  absl::Status AttentionBlock(const Layer& layer);
  absl::Status NormHeads(const weights::LayerWeights& w);
  absl::Status WriteCache(const Layer& layer);
  absl::Status Attend(const Layer& layer);
  absl::Status FeedForwardBlock(const Layer& layer);
  absl::Status Dense(const weights::LayerWeights& w, ops::ConstActs input);
  // experts.cc
  absl::Status Experts(const weights::LayerWeights& w, ops::ConstActs input);
  absl::Status ExpertsOf(const weights::LayerWeights& w, ops::ConstActs input, ops::Acts out, int tokens);
  absl::Status MultiplyExperts(ops::ConstActs x, int rows, int64_t k,
                               std::initializer_list<ops::ExpertMatmulArgs::Part> parts);

  absl::Status AddPositions();

  // What a block takes: x with what is pending joined to it, normed when that is done before the block.
  absl::StatusOr<ops::ConstActs> Input(Operation op, const weights::NormWeights& norm);
  // What a block gave lies in `partial`, summed over ranks: normed when that is done behind it, and pending, or joined.
  absl::Status Output(Operation op, const weights::NormWeights& post_norm);

  // x += add (when set); y = norm(x), y may be x; no norm without weights.
  absl::Status Norm(Operation op, ops::Acts x, ops::ConstActs add, const weights::NormWeights& w, ops::Acts y,
                    int tokens);
  absl::Status Activate(ops::Acts gate, ops::ConstActs up, int64_t width, int rows);
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
  model::LayerKind KindOf(size_t local_layer) const {
    return p_.config.kind(p_.shard.layers.begin + static_cast<int32_t>(local_layer));
  }
  int64_t q_dim() const { return int64_t{p_.shard.heads.size()} * p_.config.head_dim; }
  int64_t kv_dim() const { return int64_t{p_.shard.kv_heads.size()} * p_.config.head_dim; }

  const DecoderParts p_;
  const Scratch s_;
  const int64_t act_bytes_;  // of one activation
  StagedBatch b_;
  const int32_t* last_ = nullptr;  // of the batch
  const device::Memory q_to_kv_;   // int32 [local heads] -> local kv head
  int folds_ = 0;                  // checksums of the batch
  ops::ConstActs pending_;         // what the last block gave, when it is not joined to x yet
};

}  // namespace shoal::graph
