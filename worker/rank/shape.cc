// Tested by: tests/process/shape_test.cc
#include "worker/rank/shape.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shoal::rank {
namespace {

// Of the token mailbox: at most two plans of a sequence are unanswered, so at most 2 * pp + 1 are in flight; a power of
// two.
int MailboxSlots(int pp) {
  int slots = 8;
  while (slots < 2 * pp + 2) slots *= 2;
  return slots;
}

// The CUDA backend computes in bf16 alone, and its attention reads no other cache.
absl::StatusOr<Numerics> ResolveOnCuda(const plan::EngineOptions& engine) {
  if (engine.compute_dtype != "auto") {
    return absl::InvalidArgumentError(
        absl::StrCat("compute dtype ", engine.compute_dtype, " on a CUDA device: there is auto (bf16)"));
  }
  if (engine.kv_dtype != "auto" && engine.kv_dtype != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache dtype ", engine.kv_dtype, " on a CUDA device: there are auto and bf16"));
  }
  return Numerics{.compute_f32 = false, .kv = DType::kBF16, .mode = *ops::NumericsFromName(engine.numerics)};
}

}  // namespace

comm::GroupShape ChannelShape(const model::ModelConfig& model, const plan::MirrorLimits& limits, int tp, int pp) {
  comm::GroupShape shape;
  shape.tp = tp;
  shape.pp = pp;
  shape.max_activation_bytes = int64_t{limits.max_tokens} * model.hidden * static_cast<int64_t>(sizeof(float));
  shape.max_samples = limits.max_sequences;
  shape.mailbox_slots = MailboxSlots(pp);
  return shape;
}

int64_t ResultRingCapacity(const plan::MirrorLimits& limits) {
  // An encoded row has an id of at most 10 bytes, a token of 5, an error of 1, and 8 of tags and lengths; one of
  // log-probabilities three integers of at most 5 bytes, a float and 20 times an integer and a float, and 16 of tags
  // and lengths when it is a row's only one; a record may take half of the ring.
  constexpr int64_t kLeast = 1 << 20, kRowBytes = 32, kLogprobsBytes = 216, kPlans = 4;
  return std::max(kLeast, kPlans * (kRowBytes + kLogprobsBytes) * limits.max_sequences);
}

absl::StatusOr<Numerics> ResolveNumerics(const plan::EngineOptions& engine) {
  if (!ops::NumericsFromName(engine.numerics)) {
    return absl::InvalidArgumentError(absl::StrCat("numerics ", engine.numerics, ": there are invariant and fast"));
  }
  if (engine.device == "cuda") return ResolveOnCuda(engine);
  Numerics out;
  if (engine.compute_dtype == "f32") {
    out.compute_f32 = true;
  } else if (engine.compute_dtype != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("compute dtype ", engine.compute_dtype, ": there are auto and f32"));
  }
  if (engine.kv_dtype == "auto") {
    out.kv = out.compute_f32 ? DType::kF32 : DType::kF16;
    return out;
  }
  const std::optional<DType> kv = DTypeFromName(engine.kv_dtype);
  if (!kv || (*kv != DType::kF32 && *kv != DType::kF16 && *kv != DType::kBF16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache dtype ", engine.kv_dtype, ": there are auto, f32, f16 and bf16"));
  }
  out.kv = *kv;
  return out;
}

}  // namespace shoal::rank
