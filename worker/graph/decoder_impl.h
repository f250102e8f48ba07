// The decoder's own declarations, shared by its sources: decoder.cc (what happens once or around the layers), layer.cc.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "worker/graph/decoder.h"
#include "worker/graph/operation.h"
#include "worker/graph/rope_table.h"
#include "worker/graph/scratch.h"

namespace shoal::graph {

// An op is called with at most so many rows: between two calls there is progress, whatever the op does. A task of a
// matmul is then some 100 million products at most, 0.1 s on a slow core without vector instructions.
inline constexpr int kRowsPerCall = 512;
// So many rows of a long context: attention then cuts its tasks by context, where they would else take as long.
inline constexpr int kLongContext = 32768, kLongContextRows = 8;

// fn(begin, count) for parts of [0, rows), in order.
template <typename F>
absl::Status InParts(int rows, int part, F fn) {
  for (int begin = 0; begin < rows; begin += part) {
    if (absl::Status s = fn(begin, std::min(part, rows - begin)); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// What does not change from step to step.
struct DecoderParts {
  model::ModelConfig config;
  plan::RankShard shard;
  DecoderOptions options;
  const ops::OpTable* table;
  ops::Stream* stream;
  const weights::ModelWeights* weights;
  std::vector<ops::KvLayer> kv;
  comm::TensorChannel* tensor;
  std::atomic<uint32_t>* operation;
  std::vector<int32_t> vocab_widths;  // [tensor ranks]: columns of logits each of them has
};

class DecoderImpl final : public Decoder {
 public:
  explicit DecoderImpl(DecoderParts parts);
  // False: there was no memory.
  bool complete() const { return s_.complete() && rope_.complete(); }

  std::span<float> residual(int tokens) override;
  absl::Status Embed(std::span<const int32_t> ids) override;
  absl::Status Forward(const Batch& batch) override;
  uint64_t checksum() const override { return checksum_; }
  absl::StatusOr<std::span<const float>> Logits(const Batch& batch) override;

 private:
  absl::Status CheckBatch(const Batch& batch) const;

  // One layer. The feed-forward output of the layer before is not joined to x yet: `pending` is it, or null.
  absl::Status Layer(const weights::LayerWeights& w, const ops::KvLayer& cache, const Batch& batch,
                     const float* pending);
  absl::Status AttentionBlock(const weights::LayerWeights& w, const ops::KvLayer& cache, const Batch& batch,
                              const float* pending);
  absl::Status WriteCache(const ops::KvLayer& cache, const Batch& batch);
  absl::Status Attend(const ops::KvLayer& cache, const Batch& batch);
  absl::Status Activate(int tokens);
  absl::Status FeedForwardBlock(const weights::LayerWeights& w, const Batch& batch);

  // x += add (when set); y = norm(x) * w.
  absl::Status Norm(Operation op, float* x, const float* add, const float* w, float* y, int tokens);
  // y_i = x * w_i for all weights at once; x is quantised first when one of them is.
  struct Product {
    const ops::Weight& w;
    float* y;
  };
  absl::Status Multiply(Operation op, const float* x, int tokens, int64_t k, std::initializer_list<Product> products);
  absl::Status Reduce(Operation op, float* data, int tokens);
  // Takes [tokens, hidden] into the checksum, when the batch wants one.
  void Fold(const Batch& batch, const float* rows);

  // Reports what runs next; each operation is progress.
  void Begin(Operation op) {
    p_.operation->store(static_cast<uint32_t>(op), std::memory_order_relaxed);
    p_.stream->Advance();
  }
  int64_t q_dim() const { return int64_t{p_.shard.heads.size()} * p_.config.head_dim; }
  int64_t kv_dim() const { return int64_t{p_.shard.kv_heads.size()} * p_.config.head_dim; }

  const DecoderParts p_;
  const Scratch s_;
  RopeTable rope_;
  std::vector<int32_t> q_to_kv_;                 // [local heads] -> local kv head
  std::vector<ops::AttentionSequence> attends_;  // of one call
  uint64_t checksum_ = 1;
};

}  // namespace shoal::graph
