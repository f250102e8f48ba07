#include "coordinator/core/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::core {

absl::Status CheckRequest(const GenerateRequest& request, const plan::MirrorLimits& limits) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt < 1) return absl::InvalidArgumentError("the prompt has no tokens");
  if (request.max_tokens < 1) return absl::InvalidArgumentError("max_tokens is less than 1");
  if (prompt + request.max_tokens > limits.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the context holds ", limits.max_model_len, " tokens, but ", prompt,
                                                   " of the prompt and ", request.max_tokens,
                                                   " to be generated were asked for"));
  }
  if (request.n < 1 || request.n > limits.max_sequences) {
    return absl::InvalidArgumentError(
        absl::StrCat("n is ", request.n, ": between 1 and ", limits.max_sequences, " answers can be made at once"));
  }
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= limits.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("token ", token, " of the prompt is not in the vocabulary"));
    }
  }
  return plan::CheckSampling(request.sampling, limits.vocab);
}

void ServiceRate::Finished(TimeNs now) { finished_[count_++ % finished_.size()] = now; }

int32_t ServiceRate::RetryAfter(int32_t waiting, TimeNs now) const {
  if (count_ == 0) return 5;
  const uint64_t known = std::min<uint64_t>(count_, finished_.size());
  const TimeNs oldest = finished_[(count_ - known) % finished_.size()];
  // Up to now, so that a rate fades when nothing finishes any more.
  const double seconds_each =
      static_cast<double>(now - oldest) / kSecond / static_cast<double>(std::max<uint64_t>(known - 1, 1));
  return static_cast<int32_t>(std::clamp(seconds_each * waiting + 0.999, 1.0, 60.0));
}

}  // namespace shoal::core
