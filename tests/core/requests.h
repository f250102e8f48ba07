// What the core's tests ask a simulated cluster for, and what every answer has to be.
#pragma once

#include <gtest/gtest.h>

#include "common/base/rng.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {

// With a prompt of its own, decided by its id.
inline GenerateRequest MakeRequest(RequestId id, int32_t prompt, int32_t max_tokens) {
  GenerateRequest r;
  r.id = id;
  for (int32_t i = 0; i < prompt; ++i) r.prompt.push_back(static_cast<int32_t>(RandomBits(7, id, i) % sim::kVocab));
  r.max_tokens = max_tokens;
  return r;
}

// Ended once, with the tokens and for the reason that it has alone; and the ranks found nothing wrong.
inline void ExpectAsAlone(const sim::VirtualCluster& cluster, const GenerateRequest& r) {
  SCOPED_TRACE(r.id);
  EXPECT_TRUE(cluster.problems().empty()) << cluster.problems().front();
  const sim::Answer& a = cluster.answer(r.id);
  ASSERT_EQ(a.finishes, 1);
  FinishReason reason;
  EXPECT_EQ(a.tokens, sim::LoneRun(r, &reason));
  EXPECT_EQ(a.finish.reason, reason) << a.finish.error;
}

}  // namespace shoal::core
