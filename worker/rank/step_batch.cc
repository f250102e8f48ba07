#include "worker/rank/step_batch.h"

#include "common/base/check.h"

namespace shoal::rank {

void StepBatch::Build(const plan::StepPlan& plan, const plan::PlanMirror& mirror, const Places& places) {
  positions_.clear();
  sample_rows_.clear();
  slots_.clear();
  sequences_.clear();
  places_.clear();
  outputs_.clear();
  output_rows_.clear();
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
  }
  AddSamples(plan, mirror);
  AddKnown(plan, mirror);
  for (const sampling::Output& output : outputs_) sampling_.push_back(sampling::MakeRow(output));
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

void StepBatch::AddSamples(const plan::StepPlan& plan, const plan::PlanMirror& mirror) {
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const plan::Row& row = plan.rows[i];
    if (!plan::Samples(row.output)) continue;
    sample_rows_.push_back(sequences_[i].row_begin + row.count - 1);
    outputs_.push_back({.sequence = mirror.Find(row.id),
                        .position = row.position + row.count,
                        .place = places_[i].index,
                        .owner = places_[i].owner});
  }
  samples_ = static_cast<int>(outputs_.size());
}

// Behind the samples: what is posted and continued from are the first tokens of all.
void StepBatch::AddKnown(const plan::StepPlan& plan, const plan::PlanMirror& mirror) {
  int32_t sample = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const plan::Row& row = plan.rows[i];
    if (row.output == plan::RowOutput::kNone) continue;
    const bool samples = plan::Samples(row.output);
    OutputRow& out = output_rows_.emplace_back();
    out = {.id = row.id, .sample = samples ? sample++ : -1, .known_first = static_cast<int32_t>(outputs_.size())};
    if (!plan::TellsLogprobs(row.output)) continue;
    out.known = row.count - (samples ? 1 : 0);
    const plan::MirroredSequence* sequence = mirror.Find(row.id);
    for (int32_t k = 0; k < out.known; ++k) {
      const int32_t position = row.position + k + 1;
      sample_rows_.push_back(sequences_[i].row_begin + k);
      outputs_.push_back({.sequence = sequence,
                          .position = position,
                          .place = places_[i].index,
                          .owner = places_[i].owner,
                          .forced = sequence->tokens[static_cast<size_t>(position)]});
    }
  }
}

}  // namespace shoal::rank
