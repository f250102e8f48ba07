// The one decoder. What a layer does, in order (shapes for `tokens` rows of a micro-batch on one tensor rank):
//
//   x          [tokens, hidden]              residual stream, the same on every tensor rank
//   h          [tokens, hidden]              norm(x)
//   q k v      [tokens, heads|kv_heads, hd]  local heads only; norms of heads
//   rope, write k and v into the cache by slot, attention from the cache
//   o          [tokens, hidden]              partial sums -> AllReduceSum
//   x += o;  h = norm(x)
//   gate up    [tokens, ffn]                 local part;  act(gate) * up
//   down       [tokens, hidden]              partial sums -> AllReduceSum
//   x += down
//
// Norms of what a block gives come behind its AllReduceSum; where there is no norm before it, it takes x itself. With
// experts each token goes through those that the router chooses: every rank has a range of the width of all of them.
//
// It branches on properties of ModelConfig, never on a family. Owns only scratch memory, sized at construction: no
// allocation while stepping. One thread.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/op_table.h"
#include "worker/comm/collective.h"
#include "worker/device/device.h"
#include "worker/graph/operation_log.h"
#include "worker/weights/weights.h"

namespace shoal::graph {

class StagedBatch;

// Where a device keeps what it knows of a sequence from step to step: its block table, its last sampled token. `index`
// is below DecoderOptions::max_samples; another `owner` (never 0) says that the place has changed hands.
struct SequencePlace {
  int32_t index = 0;
  uint64_t owner = 0;
};

// One micro-batch, as the rank engine lays it out from a plan, in host memory. Rows of one sequence are consecutive.
struct Batch {
  int tokens = 0;
  std::span<const int32_t> sources = {};    // [tokens]; stage 0: as ops::GatherIdsArgs has them
  const int32_t* last = nullptr;            // [places], in device memory: the same
  std::span<const int32_t> positions = {};  // [tokens]
  std::span<const int64_t> slots = {};      // [tokens] of the KV cache
  std::span<const ops::AttentionSequence> sequences = {};
  std::span<const SequencePlace> places = {};     // [sequences]; used on a device
  std::span<const int32_t> sample_rows = {};      // rows whose logits are wanted
  std::span<const ops::SampleRow> sampling = {};  // of these
  bool checksum = false;                          // Forward makes one
  // Not 0: rows behind `tokens`, up to so many, are padding, and what is enqueued for the batch depends on this number
  // alone, so that it can be recorded once. Every row samples.
  int bucket = 0;
};

struct DecoderOptions {
  int max_tokens = 0;   // rows in one batch
  int max_samples = 0;  // rows whose logits are wanted in one batch
  int max_context = 0;  // tokens of one sequence
};

// Working memory of one rank's decoder, of `tp` tensor ranks, on a stream of `threads`.
int64_t DecoderBytes(const model::ModelConfig& config, const plan::RankShard& shard, int tp,
                     const DecoderOptions& options, const ops::OpTable& table, int threads);

class Decoder {
 public:
  // `operations` is told what runs. All pointers outlive the decoder.
  // InvalidArgument: a weight type or a size that the backend or this shard does not have. ResourceExhausted: no memory
  // for batches of this size.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(const model::ModelConfig& config, const plan::RankShard& shard,
                                                         const DecoderOptions& options, device::Device* device,
                                                         const weights::ModelWeights* weights,
                                                         std::vector<ops::KvLayer> kv, comm::TensorChannel* tensor,
                                                         OperationLog* operations);
  virtual ~Decoder() = default;

  // Takes a batch's words to the device; the calls below are about this batch, until the next one. What `batch` views
  // may change once this returns, but for the block tables on a host. InvalidArgument: it is larger than the options
  // said.
  virtual absl::Status Begin(const Batch& batch) = 0;
  // Of that batch: rows (those of its bucket, when it has one) and its sampling parameters in device memory.
  virtual const StagedBatch& staged() const = 0;
  // The batch's residual stream, [tokens, hidden] of OpTable::acts, in device memory: stage 0 fills it by Embed, others
  // receive into it.
  virtual std::span<std::byte> residual() = 0;
  virtual absl::Status Embed() = 0;
  virtual absl::Status Forward() = 0;
  // Checksums of what every tensor rank of a stage has to hold alike to the bit, each by its own doing: the normed
  // input of each block, and the residual stream after the last layer. In device memory; of the last Forward, empty
  // when its batch did not ask for them.
  virtual std::span<const uint64_t> sums() const = 0;
  // Last stage of a model that embeds: one vector for each sequence of the batch, [sequences, hidden], of all its rows
  // there, in device memory, the same on every tensor rank, valid until the next batch.
  virtual absl::StatusOr<std::span<const float>> Pooled() = 0;
  // Last stage: logits of batch.sample_rows, [samples, vocab] with row stride vocab, in device memory, valid on tensor
  // rank 0 until the next batch; empty elsewhere.
  virtual absl::StatusOr<std::span<const float>> Logits() = 0;
};

}  // namespace shoal::graph
