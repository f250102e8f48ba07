#include "worker/rank/step_batch.h"

#include "common/base/check.h"
#include "worker/sampling/sampler.h"

namespace shoal::rank {

void StepBatch::Build(const plan::StepPlan& plan, const plan::PlanMirror& mirror, const Places& places) {
  positions_.clear();
  sample_rows_.clear();
  slots_.clear();
  sequences_.clear();
  places_.clear();
  sampled_.clear();
  sampling_.clear();
  copies_.clear();
  decodes_ = false;
  const int64_t block_size = mirror.limits().block_size;
  for (const plan::BlockCopy& copy : plan.copies) copies_.push_back({copy.src, copy.dst});
  for (const plan::Row& row : plan.rows) {
    const plan::MirroredSequence* sequence = mirror.Find(row.id);
    SHOAL_CHECK(sequence != nullptr);  // plan_check has seen to it
    sequences_.push_back({.block_table = sequence->blocks.data(),
                          .row_begin = static_cast<int>(positions_.size()),
                          .row_count = row.count,
                          .position = row.position});
    places_.push_back(*places.Find(row.id));
    for (int32_t p = row.position; p < row.position + row.count; ++p) {
      positions_.push_back(p);
      slots_.push_back(sequence->blocks[p / block_size] * block_size + p % block_size);
    }
    decodes_ |= row.source == plan::TokenSource::kLastSample;
    if (row.output != plan::RowOutput::kSample) continue;
    sample_rows_.push_back(static_cast<int32_t>(positions_.size()) - 1);
    sampled_.push_back(row.id);
    sampling_.push_back(sampling::MakeRow(sequence->sampling, row.position + row.count));
  }
  batch_ = {.tokens = static_cast<int>(positions_.size()),
            .sources = {},
            .last = nullptr,
            .positions = positions_,
            .slots = slots_,
            .sequences = sequences_,
            .places = places_,
            .sample_rows = sample_rows_,
            .sampling = sampling_,
            .checksum = plan.checksum,
            .bucket = plan.bucket};
}

}  // namespace shoal::rank
