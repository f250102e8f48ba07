// From a plan's sampling rows to op parameters: what the sampling rank adds to the kernels. A pure function of
// (parameters, position): nothing is remembered between steps, so a replay samples the same.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/plan/plan_check.h"
#include "kernels/ops/op_table.h"

namespace shoal::sampling {

// The random number of a row is keyed by (seed, choice, position of the token that is being sampled, draw 0).
ops::SampleRow MakeRow(const plan::SamplingParams& params, int32_t position);

// tokens[i] for each row of logits [rows, vocab]; -1 where the row has no finite logit.
absl::Status Sample(const ops::OpTable& table, ops::Stream& stream, std::span<const float> logits, int vocab,
                    std::span<const ops::SampleRow> rows, std::span<int32_t> tokens);

}  // namespace shoal::sampling
