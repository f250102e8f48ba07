// A batch in device memory: what the ops of a step read. One copy takes all of it there. Block tables stay on a device:
// it has a row for each place of a sequence, and only what a table has gained is copied.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/device.h"
#include "worker/graph/decoder.h"
#include "worker/graph/rope_table.h"

namespace shoal::graph {

// An op is called with at most so many rows: between two calls there is progress, whatever the op does. A task of a
// matmul is then some 100 million products at most, 0.1 s on a slow core without vector instructions.
inline constexpr int kRowsPerCall = 512;
// So many rows of a long context: attention then cuts its tasks by context, where they would else take as long.
inline constexpr int kLongContext = 32768, kLongContextRows = 8;

// What is known of the batches before there is one.
struct BatchShape {
  DecoderOptions options;
  model::Rope rope;
  std::optional<model::Rope> other_rope = {};
  int block_size = 1;  // of the KV cache
  // Of this rank's attention.
  std::vector<int32_t> q_to_kv;  // [local query heads]
  int kv_heads = 0, head_dim = 0;
  bool causal = true;
  bool positions = false, pools = false;  // who asks for them below
};

class StagedBatch {
 public:
  // ResourceExhausted: no memory for the largest batch. `device` outlives this.
  static absl::StatusOr<StagedBatch> Create(device::Device* device, BatchShape shape);
  // Of the memory that Create takes.
  static int64_t Bytes(bool is_host, const ops::OpTable& table, int threads, const BatchShape& shape);

  // InvalidArgument: the batch is larger than the options said, or its parts differ in length; nothing has changed.
  absl::Status Stage(const Batch& batch);

  // Facts for the host. Those of a batch with a bucket are the bucket's: what is behind the batch's own rows is
  // padding, whose results nobody reads.
  int tokens() const { return tokens_; }
  int samples() const { return samples_; }
  bool checksum() const { return checksum_; }
  bool recordable() const { return recordable_; }  // it has a bucket
  // What one call of attention takes: `count` of sequences() from `first`.
  struct Part {
    int first, count;
  };
  std::span<const Part> parts() const { return parts_; }
  ops::AttentionPlanShape plan_shape() const;

  // In device memory, at addresses that follow from the bucket alone when there is one.
  const int32_t* sources() const { return At<int32_t>(at_.sources); }                  // [tokens]
  const int64_t* slots() const { return At<int64_t>(at_.slots); }                      // [tokens]
  const int32_t* sample_rows() const { return At<int32_t>(at_.sample_rows); }          // [samples]
  const ops::SampleRow* sampling() const { return At<ops::SampleRow>(at_.sampling); }  // [samples]
  const ops::AttentionSequence* sequences() const { return At<ops::AttentionSequence>(at_.sequences); }
  const void* plan() const { return has_plan_ ? At<std::byte>(at_.plan) : nullptr; }
  // Rows of angles: those of the batch's tokens (rows is null), or of all positions, with the row of each token.
  struct Angles {
    const float *cos, *sin;
    const int32_t* rows;  // [tokens]
  };
  Angles angles(bool other) const {
    const Turn& turn = at_.turns[other ? 1 : 0];
    return {At<float>(turn.cos), At<float>(turn.sin), device_->is_host() ? nullptr : positions()};
  }
  const int32_t* positions() const {
    return At<int32_t>(at_.positions);
  }  // [tokens]; on a host: when the shape said so
  // The first row of each sequence, and how many it has, when the shape said so.
  int pooled() const { return pooled_; }
  const int32_t* first_rows() const { return At<int32_t>(at_.first_rows); }  // [pooled]
  const int32_t* row_counts() const { return At<int32_t>(at_.row_counts); }  // [pooled]

 private:
  // Offsets into memory_.
  struct Turn {
    size_t cos = 0, sin = 0;
  };
  struct Places {
    size_t sources = 0, slots = 0, sample_rows = 0, sampling = 0, sequences = 0, plan = 0, positions = 0;
    size_t first_rows = 0, row_counts = 0, table_values = 0, table_places = 0;
    Turn turns[2];
  };
  // A row of block tables on the device.
  struct TableRow {
    uint64_t owner = 0;
    size_t known = 0;  // entries there
  };

  StagedBatch(device::Device* device, BatchShape shape);

  template <typename T>
  const T* At(size_t offset) const {
    return reinterpret_cast<const T*>(memory_.data() + offset);
  }
  // Where the next `count` values go in the copy; their place is told.
  template <typename T>
  T* Reserve(size_t count, size_t* offset);
  // `values`, then `padding` up to `count`.
  template <typename T>
  void Put(std::span<const T> values, size_t count, T padding, size_t* offset);
  absl::Status Check(const Batch& batch) const;
  absl::Status UploadAngles();
  void PutAngles(std::span<const int32_t> positions);
  void PutPooled(const Batch& batch);
  void CutSequences(const Batch& batch);
  void PutPlan();
  absl::Status PutTables(const Batch& batch);
  absl::Status UploadChunk();
  absl::Status Scatter(size_t count);

  device::Device* device_;
  BatchShape shape_;
  std::vector<RopeTable> ropes_;  // and the other one
  device::Memory memory_;         // on a device: the angles of all positions, the block tables; then the batch
  size_t begin_ = 0;              // of the batch there
  std::vector<std::byte> host_;   // the batch before its copy
  Places at_;
  std::vector<Part> parts_;
  std::vector<ops::AttentionSequence> cut_;
  std::vector<TableRow> rows_;  // [max_samples]
  int32_t* tables_ = nullptr;   // [max_samples, table_width_] on the device
  int64_t table_width_ = 0;
  std::vector<int32_t> table_values_, table_places_;  // what tables have gained
  bool has_plan_ = false;
  int tokens_ = 0, samples_ = 0, pooled_ = 0;
  int most_rows_ = 1;  // of one sequence
  bool checksum_ = false, recordable_ = false;
};

}  // namespace shoal::graph
