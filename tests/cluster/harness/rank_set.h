// The ranks of a group inside the test: each with its shard, its KV cache, its channels and its decoder.
// Below the engine: batches are given directly, and the logits of any row come back.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "common/plan/plan_check.h"
#include "kernels/ops/backends.h"
#include "tests/cluster/harness/shards.h"
#include "tests/comm/group.h"
#include "worker/graph/decoder.h"
#include "worker/rank/control_page.h"

namespace shoal::testing {

struct RankSetOptions {
  comm::TestTransport transport = comm::TestTransport::kLocal;
  DType kv = DType::kF32;
  int threads = 1;  // per rank
  int blocks = 64;
  int block_size = 16;
  int max_tokens = 64;   // rows of one batch
  int max_samples = 64;  // rows whose logits are wanted
  int max_model_len = 512;
  // Makes the device of each rank; null: the CPU, `threads` of it. Ranks whose device is no host exchange by way of it.
  std::function<absl::StatusOr<std::unique_ptr<device::Device>>(const ops::OpTable*)> device = nullptr;
};

class RankSet {
 public:
  static absl::StatusOr<std::unique_ptr<RankSet>> Make(std::shared_ptr<const Shards> shards,
                                                       const RankSetOptions& options);

  struct Rank {
    std::unique_ptr<rank::ControlPage> page;
    std::unique_ptr<device::Device> device;
    device::Memory kv_memory;
    std::vector<ops::KvLayer> kv;
    std::unique_ptr<graph::OperationLog> operations;
    std::unique_ptr<graph::Decoder> decoder;
  };

  const Shards& shards() const { return *shards_; }
  const RankSetOptions& options() const { return options_; }
  plan::MirrorLimits limits() const;
  int size() const { return static_cast<int>(ranks_.size()); }
  Rank& rank(int r) { return ranks_[r]; }
  comm::TestGroup& group() { return *group_; }

  // Tokens [begin, begin + ids.size()) of sequence `sequence`, whose blocks are a fixed shuffle of the cache: sequence
  // s owns logical blocks [s * stride, (s + 1) * stride) with stride = blocks / sequences.
  struct Chunk {
    int sequence;
    int begin;
    std::vector<int32_t> ids;
  };
  // One batch through all stages; logits of every row, [rows, vocab].
  absl::StatusOr<std::vector<float>> Step(const std::vector<Chunk>& chunks, int sequences = 1);
  // The same of a model that embeds: a vector for each chunk, [chunks, hidden].
  absl::StatusOr<std::vector<float>> Embed(const std::vector<Chunk>& chunks, int sequences = 1);

 private:
  absl::StatusOr<std::vector<float>> Run(const std::vector<Chunk>& chunks, int sequences);
  absl::Status StepOf(int r, const graph::Batch& batch, std::vector<float>* result);

  std::shared_ptr<const Shards> shards_;
  RankSetOptions options_;
  std::unique_ptr<comm::TestGroup> group_;
  std::deque<Rank> ranks_;
};

// Logits of all positions of one sequence, [ids, vocab], computed in chunks of the given sizes (the last one repeats).
absl::StatusOr<std::vector<float>> TeacherForced(RankSet& ranks, const std::vector<int32_t>& ids,
                                                 const std::vector<int>& chunk_sizes);

}  // namespace shoal::testing
