// From a plan's sampling rows to op parameters: what the sampling rank adds to the kernels. What a row gets is a pure
// function of (parameters, position): nothing is remembered between steps, so a replay samples the same.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "common/plan/plan_check.h"
#include "worker/device/device.h"

namespace shoal::sampling {

// The random number of a row is keyed by (seed, choice, position of the token that is being sampled, draw 0).
ops::SampleRow MakeRow(const plan::SamplingParams& params, int32_t position);

// One thread.
class Sampler {
 public:
  explicit Sampler(device::Device* device) : device_(device), rows_(device) {}

  // tokens[i] for each row of logits [rows, vocab] in device memory; -1 where the row has no finite logit.
  absl::Status Sample(std::span<const float> logits, int vocab, std::span<const ops::SampleRow> rows,
                      std::span<int32_t> tokens);

 private:
  device::Device* const device_;
  device::UploadBuffer rows_;
  device::Memory tokens_;
};

}  // namespace shoal::sampling
