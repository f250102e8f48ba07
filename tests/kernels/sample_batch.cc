#include "tests/kernels/sample_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/rng.h"
#include "kernels/ops/token_counts.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

constexpr int kUntouched = 0x5a;

// The counts of a place: some ids were in the prompt, some generated, once, often, or more often than can be told.
void FillCounts(uint16_t* counts, int vocab, uint64_t seed, uint64_t place) {
  for (int id = 0; id < vocab; ++id) {
    const uint64_t bits = RandomBits(seed, place, static_cast<uint64_t>(id));
    const uint16_t in_prompt = bits % 4 == 0 ? 0x8000 : 0;
    const uint16_t generated[] = {0, 0, 1, 2, 7, 300, 32767, 0};
    counts[id] = in_prompt | generated[bits >> 8 & 7];
  }
}

// A bit for every other id; all; hardly any; none but one.
void FillMask(uint32_t* words, int vocab, uint64_t seed, uint64_t row) {
  const int count = (vocab + 31) / 32;
  for (int w = 0; w < count; ++w) {
    const auto random = static_cast<uint32_t>(RandomBits(seed, row, static_cast<uint64_t>(w)));
    const uint32_t kinds[] = {random, ~0u, w % 3 == 0 ? 0u : random & random >> 7 & random << 5, 0u};
    words[w] = kinds[row / 2 % 4];
  }
  const auto one = static_cast<int>(RandomBits(seed, row, 1u << 30) % static_cast<uint64_t>(vocab));
  words[one / 32] |= 1u << (one % 32);
}

// Of ids wherever they lie, the first and the last among them; some are shifted far.
std::vector<SampleBias> BiasesOf(int vocab, uint64_t seed, uint64_t row) {
  std::vector<SampleBias> out;
  for (int id = 0; id < vocab; ++id) {
    const uint64_t bits = RandomBits(seed, row, static_cast<uint64_t>(id));
    if (bits % 9 != 0 && id != 0 && id != vocab - 1) continue;
    const float shifts[] = {0.25f, -3, 4.5f, -100, 0, -0.125f, 2, 8};
    out.push_back({id, shifts[bits >> 8 & 7]});
  }
  return out;
}

SampleRow RowOf(uint64_t seed, uint32_t r) {
  const float temperatures[] = {0, 0.7f, 1.3f}, repetitions[] = {1, 1.2f, 0.8f, 1};
  const float presences[] = {0, 0.5f, -0.4f}, frequencies[] = {0, 0.3f, 0, -0.05f, 0};
  const int logprobs[] = {-1, 0, 1, 5, 20, 3, -1};
  const bool penalised = r % 3 != 0;
  SampleRow row = {.temperature = temperatures[r % 3],
                   .top_k = r % 4 == 1 ? 40 : 0,
                   .top_p = r % 5 < 2 ? 0.9f : 1,
                   .min_p = r % 7 == 3 ? 0.02f : 0,
                   .uniform = SamplingUniform(seed, 0, r, 0),
                   .repetition = repetitions[r % 4],
                   .presence = presences[r / 2 % 3],
                   .frequency = frequencies[r % 5],
                   .place = penalised ? static_cast<int32_t>(r * 5 % 8) : -1,
                   .logprobs = logprobs[r % 7]};
  if (r % 12 == 11) row.top_k = -1;
  return row;
}

// Before in the order: by falling logit, then by rising id.
bool Before(const std::vector<float>& logits, int a, int b) {
  const auto x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
  return x > y || (x == y && a < b);
}

}  // namespace

SampleArgs SampleBatch::Args(int32_t* tokens, SampleLogprobs* out) const {
  return {.logits = logits.data(),
          .stride = vocab,
          .params = params.data(),
          .tokens = tokens,
          .rows = rows,
          .vocab = vocab,
          .masks = masks.empty() ? nullptr : masks.data(),
          .biases = biases.empty() ? nullptr : biases.data(),
          .counts = counts.empty() ? nullptr : counts.data(),
          .logprobs = logprobs ? out : nullptr};
}

SampleBatch SampleBatch::Row(int row) const {
  const auto r = static_cast<std::ptrdiff_t>(row);
  SampleBatch one = *this;
  one.rows = 1;
  one.logits.assign(logits.begin() + r * vocab, logits.begin() + (r + 1) * vocab);
  one.params = {params[static_cast<size_t>(row)]};
  return one;
}

SampleBatch MakeSampleBatch(int vocab, int rows, uint64_t seed) {
  constexpr int kPlaces = 8;
  const auto width = static_cast<size_t>(vocab), count = static_cast<size_t>(rows);
  SampleBatch b = {.vocab = vocab, .rows = rows, .logits = RandomFloats(width * count, seed, 3)};
  const auto stride = static_cast<size_t>(CountsStride(vocab));
  b.counts.resize(kPlaces * stride, 0xffff);
  for (uint64_t p = 0; p < kPlaces; ++p) FillCounts(b.counts.data() + p * stride, vocab, seed + 1, p);
  const auto words = static_cast<size_t>(MaskWords(vocab));
  b.masks.resize(count * words);
  for (size_t r = 0; r < count; ++r) {
    FillMask(b.masks.data() + r * words, vocab, seed + 2, r);
    b.params.push_back(RowOf(seed + 3, static_cast<uint32_t>(r)));
    b.params[r].mask = r % 2 == 1 ? static_cast<int32_t>(r) : -1;
    if (r % 5 == 2 || r % 5 == 4) {
      const std::vector<SampleBias> own = BiasesOf(vocab, seed + 5, r);
      b.params[r].bias_first = static_cast<int32_t>(b.biases.size());
      b.params[r].bias_count = static_cast<int32_t>(own.size());
      b.biases.insert(b.biases.end(), own.begin(), own.end());
    }
    // Ids that stand out: equal ones, and some that no token may be.
    for (size_t i = 0; i < width / 50; ++i) {
      const size_t at = RandomBits(seed + 4, r, i) % width;
      b.logits[r * width + at] = i % 3 == 0 ? -INFINITY : 9;
    }
  }
  return b;
}

std::vector<float> ChangedLogits(const SampleBatch& b, int row) {
  const SampleRow& p = b.params[static_cast<size_t>(row)];
  std::vector<float> out;
  for (int id = 0; id < b.vocab; ++id) {
    float x = b.logits[static_cast<size_t>(row) * static_cast<size_t>(b.vocab) + static_cast<size_t>(id)];
    if (p.mask >= 0 && !b.masks.empty()) {
      const uint32_t word = b.masks[static_cast<size_t>(p.mask * MaskWords(b.vocab) + id / 32)];
      if ((word & 1u << id % 32) == 0) x = -INFINITY;
    }
    for (int i = 0; i < (b.biases.empty() ? 0 : p.bias_count); ++i) {
      const SampleBias& bias = b.biases[static_cast<size_t>(p.bias_first + i)];
      x += bias.id == id ? bias.bias : 0;
    }
    const uint16_t count =
        p.place < 0 || b.counts.empty() ? 0 : b.counts[static_cast<size_t>(p.place * CountsStride(b.vocab) + id)];
    if (count > 0 && x > 0) {
      x /= p.repetition;
    } else if (count > 0) {
      x *= p.repetition;
    }
    const int generated = count % 32768;
    x -= p.frequency * static_cast<float>(generated);
    if (generated > 0) x -= p.presence;
    out.push_back(x);
  }
  return out;
}

SampleLogprobs ExpectedLogprobs(const std::vector<float>& logits, int32_t token, int top) {
  SampleLogprobs out = {.logprob = -INFINITY, .rank = 0, .top_ids = {}, .top_logprobs = {}};
  std::fill_n(out.top_ids, kMaxTopLogprobs, -1);
  std::fill_n(out.top_logprobs, kMaxTopLogprobs, -INFINITY);
  if (token < 0) return out;
  long double sum = 0;  // logits are small: no need to take the largest out
  std::vector<int> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    sum += std::exp(static_cast<long double>(logits[i]));
    if (logits[i] != -INFINITY) order.push_back(static_cast<int>(i));
  }
  std::sort(order.begin(), order.end(), [&](int a, int b) { return Before(logits, a, b); });
  for (size_t i = 0; i < order.size(); ++i) {
    const auto logprob =
        static_cast<float>(static_cast<long double>(logits[static_cast<size_t>(order[i])]) - std::log(sum));
    if (order[i] == token) {
      out.rank = static_cast<int32_t>(i) + 1;
      out.logprob = logprob;
    }
    if (i >= static_cast<size_t>(std::min(top, kMaxTopLogprobs))) continue;
    out.top_ids[i] = order[i];
    out.top_logprobs[i] = logprob;
  }
  return out;
}

SampleResults::SampleResults(int rows) : tokens(static_cast<size_t>(rows), -99), logprobs(static_cast<size_t>(rows)) {
  std::memset(logprobs.data(), kUntouched, logprobs.size() * sizeof(SampleLogprobs));
}

SampleResults ExpectedResults(const SampleBatch& b) {
  SampleResults out(b.rows);
  for (int r = 0; r < b.rows; ++r) {
    SampleRow plain = b.params[static_cast<size_t>(r)];
    plain.place = plain.mask = plain.logprobs = -1;
    plain.repetition = 1;
    plain.presence = plain.frequency = 0;
    plain.bias_count = 0;
    const std::vector<float> changed = ChangedLogits(b, r);
    int32_t& token = out.tokens[static_cast<size_t>(r)];
    const auto stream = MakeCpuStream(1);
    EXPECT_TRUE(RefTable().sample(*stream, {changed.data(), b.vocab, &plain, &token, 1, b.vocab}).ok());
    const int top = b.params[static_cast<size_t>(r)].logprobs;
    if (top < 0 || !b.logprobs) continue;
    out.logprobs[static_cast<size_t>(r)] = ExpectedLogprobs(b.Row(r).logits, token, top);
  }
  return out;
}

void ExpectSameLogprobs(const SampleLogprobs& expected, const SampleLogprobs& actual) {
  const auto near = [](float want, float got) {
    if (std::isinf(want)) {
      EXPECT_EQ(want, got);
    } else {
      EXPECT_NEAR(want, got, 1e-6f + std::fabs(want) * 0x1p-23f);
    }
  };
  EXPECT_EQ(expected.rank, actual.rank);
  near(expected.logprob, actual.logprob);
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    EXPECT_EQ(expected.top_ids[i], actual.top_ids[i]) << "top " << i;
    near(expected.top_logprobs[i], actual.top_logprobs[i]);
  }
}

void ExpectResults(const SampleBatch& b, const SampleResults& actual) {
  const SampleResults expected = ExpectedResults(b);
  EXPECT_EQ(expected.tokens, actual.tokens);
  for (size_t r = 0; r < b.params.size(); ++r) {
    SCOPED_TRACE(testing::Message() << "row " << r);
    if (b.params[r].logprobs >= 0 && b.logprobs) {
      ExpectSameLogprobs(expected.logprobs[r], actual.logprobs[r]);
    } else {
      EXPECT_EQ(std::memcmp(&actual.logprobs[r], &expected.logprobs[r], sizeof(SampleLogprobs)), 0) << "written";
    }
  }
}

void ExpectSameBits(const SampleResults& expected, const SampleResults& actual) {
  EXPECT_EQ(expected.tokens, actual.tokens);
  ASSERT_EQ(expected.logprobs.size(), actual.logprobs.size());
  const size_t bytes = expected.logprobs.size() * sizeof(SampleLogprobs);
  EXPECT_EQ(std::memcmp(expected.logprobs.data(), actual.logprobs.data(), bytes), 0);
}

}  // namespace shoal::ops
