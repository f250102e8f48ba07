// From a plan's sampling rows to op parameters: what the sampling rank adds to the kernels. What a row gets is a pure
// function of (parameters, position): nothing is remembered between steps, so a replay samples the same.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "common/plan/plan_check.h"
#include "worker/device/device.h"

namespace shoal::sampling {

// The random number of a row is keyed by (seed, choice, position of the token that is being sampled, draw 0).
ops::SampleRow MakeRow(const plan::SamplingParams& params, int32_t position);

// One thread.
class Sampler {
 public:
  // ResourceExhausted: no memory for the tokens of `max_rows` rows.
  static absl::StatusOr<Sampler> Create(device::Device* device, int max_rows);

  // One token for each row of logits [rows, vocab] with rows[r] as parameters, all in device memory, until the next
  // call and always at the same place; -1 where the row has no finite logit.
  absl::StatusOr<std::span<const int32_t>> Sample(std::span<const float> logits, int vocab, const ops::SampleRow* rows,
                                                  int count);

 private:
  explicit Sampler(device::Device* device) : device_(device) {}

  device::Device* device_;
  device::Memory tokens_;
};

}  // namespace shoal::sampling
