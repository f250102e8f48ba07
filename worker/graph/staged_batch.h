// A batch in device memory: what the ops of a step read. One copy takes all of it there; on the CPU, of some kilobytes.
#pragma once

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

class StagedBatch {
 public:
  // ResourceExhausted: no memory for the largest batch. `device` outlives this. `block_size`: of the KV cache.
  static absl::StatusOr<StagedBatch> Create(device::Device* device, const DecoderOptions& options,
                                            const model::Rope& rope, int block_size);
  // Of the memory that Create takes.
  static int64_t Bytes(bool is_host, const DecoderOptions& options, const model::Rope& rope);

  // InvalidArgument: the batch is larger than the options said, or its parts differ in length; nothing has changed.
  absl::Status Stage(const Batch& batch);

  // Facts for the host.
  int tokens() const { return tokens_; }
  int samples() const { return samples_; }
  bool checksum() const { return checksum_; }
  // What one call of attention takes: `count` of sequences() from `first`.
  struct Part {
    int first, count;
  };
  std::span<const Part> parts() const { return parts_; }

  // In device memory.
  const int32_t* ids() const { return At<int32_t>(ids_); }                  // [tokens]
  const int64_t* slots() const { return At<int64_t>(slots_); }              // [tokens]
  const int32_t* sample_rows() const { return At<int32_t>(sample_rows_); }  // [samples]
  const ops::AttentionSequence* sequences() const { return At<ops::AttentionSequence>(sequences_); }
  // Rows of angles: those of the batch's tokens, or of all positions, with the row of each token in angles().
  const float* cos() const { return At<float>(cos_); }
  const float* sin() const { return At<float>(sin_); }
  const int32_t* angles() const { return device_->is_host() ? nullptr : At<int32_t>(angles_); }  // [tokens]

 private:
  StagedBatch(device::Device* device, const DecoderOptions& options, const model::Rope& rope, int block_size)
      : device_(device), options_(options), rope_(rope), block_size_(block_size) {}

  template <typename T>
  const T* At(size_t offset) const {
    return reinterpret_cast<const T*>(memory_.data() + offset);
  }
  // Where the next `count` values go in the copy; its place is told.
  template <typename T>
  T* Reserve(size_t count, size_t* offset);
  template <typename T>
  size_t Put(std::span<const T> values);
  absl::Status Check(const Batch& batch) const;
  absl::Status UploadAngles();
  void PutSequences(const Batch& batch);

  device::Device* device_;
  DecoderOptions options_;
  RopeTable rope_;
  int block_size_;
  device::Memory memory_;        // the angles of all positions, on a device; then the batch
  size_t begin_ = 0;             // of the batch there
  std::vector<std::byte> host_;  // the batch before its copy
  std::vector<Part> parts_;
  std::vector<ops::AttentionSequence> cut_;
  int tokens_ = 0, samples_ = 0;
  bool checksum_ = false;
  size_t ids_ = 0, slots_ = 0, sample_rows_ = 0, sequences_ = 0, cos_ = 0, sin_ = 0, angles_ = 0;
};

}  // namespace shoal::graph
