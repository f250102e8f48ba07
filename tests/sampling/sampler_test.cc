#include "worker/sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/rng.h"
#include "kernels/ops/backends.h"

namespace shoal::sampling {
namespace {

TEST(SamplerTest, ARowIsKeyedBySeedChoiceAndPosition) {
  plan::SamplingParams params;
  params.temperature = 0.7f;
  params.top_k = 40;
  params.top_p = 0.9f;
  params.min_p = 0.05f;
  params.seed = 0x123456789abcdef0;
  params.choice = 3;
  const ops::SampleRow row = MakeRow(params, 17);
  EXPECT_EQ(row.temperature, 0.7f);
  EXPECT_EQ(row.top_k, 40);
  EXPECT_EQ(row.top_p, 0.9f);
  EXPECT_EQ(row.min_p, 0.05f);
  EXPECT_EQ(row.uniform, SamplingUniform(0x123456789abcdef0, 3, 17, 0));
  EXPECT_NE(MakeRow(params, 18).uniform, row.uniform);
}

TEST(SamplerTest, EachRowGetsItsOwnParameters) {
  for (const ops::OpTable* table : ops::RunnableOpTables()) {
    if (table->name == "null") continue;
    SCOPED_TRACE(std::string(table->name));
    const auto device = device::MakeHostDevice(table, 1);
    constexpr int kVocab = 64;
    // Token 9 is the most likely; 20 and 21 share the rest.
    std::vector<float> logits(4 * kVocab, -1e4f);
    for (int row = 0; row < 4; ++row) {
      logits[row * kVocab + 9] = std::log(0.5f);
      logits[row * kVocab + 20] = logits[row * kVocab + 21] = std::log(0.25f);
    }
    logits[3 * kVocab + 40] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<ops::SampleRow> rows = {
        {.temperature = 0, .uniform = 0.9f},
        {.temperature = 1, .uniform = 0.6f},
        {.temperature = 1, .top_k = 1, .uniform = 0.99f},
        {.temperature = 1, .uniform = 0.1f},
    };
    auto sampler = Sampler::Create(device.get(), 5);
    ASSERT_TRUE(sampler.ok());
    const auto tokens = sampler->Sample(logits, kVocab, rows.data(), 4);
    ASSERT_TRUE(tokens.ok());
    EXPECT_EQ(std::vector<int32_t>(tokens->begin(), tokens->end()), (std::vector<int32_t>{9, 20, 9, -1}));
  }
}

}  // namespace
}  // namespace shoal::sampling
