// Tested by tests/kernels/null_test.cc
#include "kernels/ops/sample.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/null/null.h"
#include "kernels/ops/token_counts.h"

namespace shoal::ops::null {
namespace {

uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

uint64_t HashBiases(uint64_t hash, const SampleBias* biases, int count) {
  for (int i = 0; i < count; ++i) hash = Mix(hash, static_cast<uint64_t>(biases[i].id) << 32 | Bits(biases[i].bias));
  return hash;
}

uint64_t HashCounts(uint64_t hash, const uint16_t* counts, int vocab) {
  for (int id = 0; id < vocab; ++id) {
    if (counts[id] != 0) hash = Mix(hash, static_cast<uint64_t>(id) << 16 | counts[id]);
  }
  return hash;
}

// The first id from `id` on, in a circle, that is allowed; -1: none is.
int32_t NextAllowed(const uint32_t* mask, int32_t id, int vocab) {
  for (int i = 0; i < vocab; ++i, id = id + 1 < vocab ? id + 1 : 0) {
    if ((mask[id / 32] >> (id % 32) & 1) != 0) return id;
  }
  return -1;
}

int32_t SampleOne(const SampleArgs& a, int64_t r) {
  const SampleRow& p = a.params[r];
  if (p.top_k < 0) return -1;
  if (p.forced >= 0) return p.forced;
  uint64_t hash = Mix(0, ToInteger(a.logits[r * a.stride]));
  if (p.temperature > 0) hash = Mix(hash, Bits(p.uniform));
  if (a.biases != nullptr) hash = HashBiases(hash, a.biases + p.bias_first, p.bias_count);
  if (a.counts != nullptr && IsPenalised(p)) {
    for (const float penalty : {p.repetition, p.presence, p.frequency}) hash = Mix(hash, Bits(penalty));
    hash = HashCounts(hash, a.counts + p.place * CountsStride(a.vocab), a.vocab);
  }
  const auto id = static_cast<int32_t>(hash % static_cast<uint64_t>(a.vocab));
  const bool masked = a.masks != nullptr && p.mask >= 0;
  return masked ? NextAllowed(a.masks + p.mask * MaskWords(a.vocab), id, a.vocab) : id;
}

void FillLogprobs(int32_t token, int top, int vocab, SampleLogprobs* out) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  out->logprob = token < 0 ? kNone : 0.0f;
  out->rank = token < 0 ? 0 : 1;
  const int listed = token < 0 ? 0 : std::min({top, kMaxTopLogprobs, vocab});
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    out->top_ids[i] = i < listed ? (token + i) % vocab : -1;
    out->top_logprobs[i] = i < listed ? static_cast<float>(-i) : kNone;
  }
}

}  // namespace

absl::Status Sample(Stream& stream, const SampleArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    a.tokens[r] = SampleOne(a, r);
    const int top = a.params[r].logprobs;
    if (top >= 0 && a.logprobs != nullptr) FillLogprobs(a.tokens[r], top, a.vocab, &a.logprobs[r]);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
