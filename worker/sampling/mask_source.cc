// Tested by: tests/sampling/mask_source_test.cc
#include "worker/sampling/mask_source.h"

#include <algorithm>

namespace shoal::sampling {
namespace {

constexpr int kWordBits = 32;

void Allow(std::span<uint32_t> mask, int32_t id) { mask[id / kWordBits] |= uint32_t{1} << id % kWordBits; }
void Forbid(std::span<uint32_t> mask, int32_t id) { mask[id / kWordBits] &= ~(uint32_t{1} << id % kWordBits); }

bool IsLong(const std::vector<int32_t>& word) { return word.size() > 1; }

// The token at `position` comes before the sequence may end.
bool MustGoOn(const plan::SamplingParams& s, int32_t prompt_tokens, int32_t position) {
  return !s.end_tokens.empty() && position - prompt_tokens < s.min_tokens;
}

class ParameterMask final : public MaskSource {
 public:
  ParameterMask(const plan::SamplingParams& sampling, int32_t prompt_tokens)
      : sampling_(sampling),
        prompt_tokens_(prompt_tokens),
        reads_tokens_(std::any_of(sampling.bad_words.begin(), sampling.bad_words.end(), IsLong)) {}

  bool reads_tokens() const override { return reads_tokens_; }

  bool Update(int32_t position, std::span<const int32_t> tokens, std::span<uint32_t> mask) override {
    const bool goes_on = MustGoOn(sampling_, prompt_tokens_, position);
    std::vector<int32_t> completed;
    if (reads_tokens_) completed = Completed(tokens);
    if (made_ && goes_on == goes_on_ && completed == completed_) return false;
    made_ = true;
    goes_on_ = goes_on;
    completed_ = std::move(completed);
    Make(mask);
    return true;
  }

 private:
  // The last tokens of the words that all but these would complete, in the order of the words.
  std::vector<int32_t> Completed(std::span<const int32_t> tokens) const {
    std::vector<int32_t> out;
    for (const std::vector<int32_t>& word : sampling_.bad_words) {
      const size_t before = word.size() - 1;
      if (!IsLong(word) || before > tokens.size()) continue;
      if (std::equal(word.begin(), word.end() - 1, tokens.end() - static_cast<std::ptrdiff_t>(before))) {
        out.push_back(word.back());
      }
    }
    return out;
  }

  void Make(std::span<uint32_t> mask) const {
    std::fill(mask.begin(), mask.end(), sampling_.allowed_tokens.empty() ? ~uint32_t{0} : 0);
    for (const int32_t id : sampling_.allowed_tokens) Allow(mask, id);
    for (const std::vector<int32_t>& word : sampling_.bad_words) {
      if (!IsLong(word)) Forbid(mask, word[0]);
    }
    for (const int32_t id : completed_) Forbid(mask, id);
    if (!goes_on_) return;
    for (const int32_t id : sampling_.end_tokens) Forbid(mask, id);
  }

  const plan::SamplingParams& sampling_;
  const int32_t prompt_tokens_;
  const bool reads_tokens_;
  // What the mask was last made of.
  bool made_ = false, goes_on_ = false;
  std::vector<int32_t> completed_;
};

}  // namespace

std::unique_ptr<MaskSource> MakeMaskSource(const plan::SamplingParams& sampling, int32_t prompt_tokens) {
  if (!HasMask(sampling, prompt_tokens, prompt_tokens)) return nullptr;
  return std::make_unique<ParameterMask>(sampling, prompt_tokens);
}

bool HasMask(const plan::SamplingParams& s, int32_t prompt_tokens, int32_t position) {
  return !s.allowed_tokens.empty() || !s.bad_words.empty() || MustGoOn(s, prompt_tokens, position);
}

}  // namespace shoal::sampling
