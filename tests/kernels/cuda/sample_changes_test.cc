// Rows with penalties, masks and log-probabilities, by the device's kernel on the host.
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sm80/sample/changes.h"
#include "tests/kernels/cuda/buffers.h"
#include "tests/kernels/sample_contract.h"

namespace shoal::cuda {
namespace {

using ops::SampleBatch;
using ops::SampleResults;

// On the device NaN fills `gap` between rows: with one of 0 most rows begin on no border of 16 bytes.
SampleResults RunOnce(const SampleBatch& batch, int gap) {
  SampleResults out(batch.rows);
  const auto width = static_cast<size_t>(batch.vocab), stride = width + static_cast<size_t>(gap);
  Buffer<float> logits(static_cast<size_t>(batch.rows) * stride);
  for (size_t r = 0; r < static_cast<size_t>(batch.rows); ++r) {
    std::memcpy(logits.data() + r * stride, batch.logits.data() + r * width, sizeof(float) * width);
  }
  Buffer<uint16_t> counts(batch.counts.size());
  std::memcpy(counts.data(), batch.counts.data(), batch.counts.size() * sizeof(uint16_t));
  ops::SampleArgs args = batch.Args(out.tokens.data(), out.logprobs.data());
  args.logits = logits.data();
  args.stride = static_cast<int64_t>(stride);
  if (args.counts != nullptr) args.counts = counts.data();
  EXPECT_TRUE(Enqueue(nullptr, args).ok());
  return out;
}

// Wherever rows begin, and in whichever order threads run.
SampleResults Run(const SampleBatch& batch) {
  const int border = 4 + (4 - batch.vocab % 4) % 4;
  const SampleResults out = RunOnce(batch, border);
  if (batch.vocab > 5000) return out;
  ops::ExpectSameBits(out, RunOnce(batch, 0));
  emulated::SetOrder(emulated::Order::kShuffled, 5);
  ops::ExpectSameBits(out, RunOnce(batch, border));
  emulated::SetOrder(emulated::Order::kDescending);
  ops::ExpectSameBits(out, RunOnce(batch, 1));
  emulated::SetOrder(emulated::Order::kAscending);
  return out;
}

}  // namespace
}  // namespace shoal::cuda

namespace shoal::ops {
namespace {

INSTANTIATE_TEST_SUITE_P(Cuda, SampleContract, testing::Values(SampleKind{"sm80", cuda::Run}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shoal::ops

namespace shoal::cuda {
namespace {

TEST(CudaSampleChanges, PenaltiesAreThoseOfTheDefinition) {
  const sample::Penalties p = {.repetition = 2, .presence = 0.25f, .frequency = 0.5f};
  EXPECT_EQ(sample::Penalised(3, 0, p), 3);
  EXPECT_EQ(sample::Penalised(3, ops::kInPrompt, p), 1.5f);
  EXPECT_EQ(sample::Penalised(-3, ops::kInPrompt, p), -6);
  EXPECT_EQ(sample::Penalised(3, 1, p), 0.75f);
  EXPECT_EQ(sample::Penalised(3, ops::kInPrompt | 4, p), -0.75f);
  EXPECT_EQ(sample::Penalised(0, 0x7fff, p), -16383.75f);
  EXPECT_EQ(sample::Penalised(-INFINITY, 5, p), -INFINITY);
}

TEST(CudaSampleChanges, WhatIsForbiddenStillShowsPoison) {
  EXPECT_EQ(sample::Forbidden(3), -INFINITY);
  EXPECT_EQ(sample::Forbidden(-INFINITY), -INFINITY);
  EXPECT_EQ(sample::Forbidden(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(sample::Forbidden(NAN)));
}

TEST(CudaSampleChanges, FourNeighboursAreEachByItself) {
  const std::vector<float> logits = {1, -2, 3, -4, 5, -6, 7, -8};
  Buffer<float> x(logits);
  alignas(16) const uint16_t counts[] = {0, 1, ops::kInPrompt, 3, 0, 0, 2, 0};
  const uint32_t mask = 0b10111101;
  const ops::SampleBias biases[] = {{2, 1}, {5, 10}, {6, 50}};
  const sample::Changed row = {x.data(), 8,           counts,
                               &mask,    {biases, 3}, {.repetition = 2, .presence = 0.25f, .frequency = 0.5f}};
  const std::vector<float> expected = {1, -INFINITY, 2, -9.75f, 5, 4, -INFINITY, -8};
  for (int id = 0; id < 8; id += 4) {
    const float4 got = row.Values(row.Load(id));
    const float values[] = {got.x, got.y, got.z, got.w};
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(values[i], expected[static_cast<size_t>(id + i)]) << id + i;
      EXPECT_EQ(row.At(id + i), values[i]) << id + i;
    }
  }
}

}  // namespace
}  // namespace shoal::cuda
