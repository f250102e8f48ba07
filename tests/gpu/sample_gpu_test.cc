// Sampling with penalties, biases, masks and log-probabilities, and the counts that penalties are made of, on the
// device.
#include <cstring>

#include "common/base/rng.h"
#include "tests/gpu/on_device.h"
#include "tests/kernels/sample_contract.h"

namespace shoal::gpu {
namespace {

ops::SampleResults OnDevice(const ops::SampleBatch& batch) {
  ops::SampleResults out(batch.rows);
  const Array<float> logits(batch.logits);
  const Array<uint16_t> counts(batch.counts);
  const Array<uint32_t> masks(batch.masks);
  const Array<ops::SampleBias> biases(batch.biases);
  const Array<ops::SampleRow> params(batch.params);
  const Array<int32_t> tokens(out.tokens);
  const Array<ops::SampleLogprobs> logprobs(out.logprobs);
  ops::SampleArgs args = batch.Args(tokens.data(), logprobs.data());
  args.logits = logits.data();
  args.params = params.data();
  if (args.counts != nullptr) args.counts = counts.data();
  if (args.masks != nullptr) args.masks = masks.data();
  if (args.biases != nullptr) args.biases = biases.data();
  Call(Table().sample, args);
  out.tokens = tokens.Get();
  out.logprobs = logprobs.Get();
  ops::ExpectSameBits(batch.logits, logits.Get());
  return out;
}

TEST(GpuSample, AgreesWithAnotherComputationOnRealVocabularies) {
  for (const int vocab : Sized<std::vector<int>>({1003}, {128256, 151936, 49157})) {
    const ops::SampleBatch batch = ops::MakeSampleBatch(vocab, Sized(12, 48), Seed() + 40);
    const ops::SampleResults got = OnDevice(batch);
    ops::ExpectResults(batch, got);
    for (const int r : {1, batch.rows - 2}) {
      ops::SampleResults row(1);
      row.tokens = {got.tokens[static_cast<size_t>(r)]};
      row.logprobs = {got.logprobs[static_cast<size_t>(r)]};
      ops::ExpectSameBits(row, OnDevice(batch.Row(r)));
    }
  }
}

// Random tokens, of which some come very often: up to the most that can be told, and beyond.
TEST(GpuCounts, AreTheReference) {
  const int vocab = Sized(1003, 128259), places = 5, count = Sized(3000, 300000);
  const auto stride = static_cast<size_t>(ops::CountsStride(vocab));
  const auto spread = static_cast<uint64_t>(vocab) + 2;
  std::vector<int32_t> tokens, of;
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
    const uint64_t bits = RandomBits(Seed(), 41, i);
    tokens.push_back(static_cast<int32_t>(bits % 2 == 0 ? bits / 2 % spread : bits / 2 % 3) - 1);
    of.push_back(static_cast<int32_t>((bits >> 40) % (places + 1)) - 1);
  }
  std::vector<uint16_t> counts(places * stride, 0xffff), before;
  const std::vector<int32_t> cleared = {0, 1, -1, 3};
  const Array<uint16_t> on_device(counts);
  const Array<int32_t> device_tokens(tokens), device_of(of), device_cleared(cleared);
  ops::ClearCountsArgs clear = {counts.data(), cleared.data(), 4, vocab};
  CallReference(ops::RefTable().clear_counts, clear);
  clear.counts = on_device.data();
  clear.places = device_cleared.data();
  Call(Table().clear_counts, clear);
  EXPECT_EQ(on_device.Get(), counts);
  for (const bool in_prompt : {true, false, false}) {
    before = counts;
    ops::CountTokensArgs args = {tokens.data(), of.data(), counts.data(), count, vocab, in_prompt};
    CallReference(ops::RefTable().count_tokens, args);
    args = {device_tokens.data(), device_of.data(), on_device.data(), count, vocab, in_prompt};
    Call(Table().count_tokens, args);
    EXPECT_EQ(on_device.Get(), counts);
    EXPECT_NE(counts, before);
  }
}

}  // namespace
}  // namespace shoal::gpu

namespace shoal::ops {
namespace {

INSTANTIATE_TEST_SUITE_P(Gpu, SampleContract, testing::Values(SampleKind{"device", gpu::OnDevice}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shoal::ops
