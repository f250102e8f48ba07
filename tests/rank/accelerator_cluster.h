// A small model on a group of ranks with accelerators (accelerator_factory.h) of their own, and requests for it.
#pragma once

#include "common/base/rng.h"
#include "tests/cluster/harness/driver.h"
#include "tests/kernels/cuda/accelerator_factory.h"

namespace shoal::testing {

inline const TinyModel kTiny = {.layers = 2,
                                .hidden = 64,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 32,
                                .ffn = 96,
                                .vocab = 288,
                                .matrices = DType::kBF16,
                                .embedding = DType::kBF16};

inline std::vector<int32_t> Ids(int count, int seed) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = 3 + static_cast<int32_t>(RandomBits(seed, 1, i) % 280);
  return ids;
}

// Its accelerators are lazy unless told.
struct AcceleratorCluster {
  explicit AcceleratorCluster(int tp = 1, int pp = 1, bool lazy = true,
                              ops::Numerics numerics = ops::Numerics::kInvariant) {
    static const TestModel model = OpenTinyModel(kTiny).value();
    RankSetOptions options = {.kv = DType::kBF16, .max_tokens = 24, .max_samples = 6, .max_model_len = 100};
    options.device = [this, lazy, numerics](const ops::OpTable*) -> absl::StatusOr<std::unique_ptr<device::Device>> {
      auto accelerator = cuda::MakeTestAccelerator(lazy, numerics);
      if (accelerator == nullptr) return absl::UnavailableError("there is no accelerator");
      accelerators.push_back(accelerator.get());
      return device::MakeAcceleratorDevice(std::move(accelerator), 8 << 10);
    };
    ranks = RankSet::Make(LoadShards(model, tp, pp, cuda::TestTable(numerics), false).value(), options).value();
  }
  std::vector<ops::Accelerator*> accelerators;
  std::unique_ptr<RankSet> ranks;
};

// Greedy and sampled, of lengths that cross block borders; more than run in one decode step at first.
inline std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests;
  for (int i = 0; i < 5; ++i) {
    TestRequest& r = requests.emplace_back();
    r.prompt = Ids(3 + 9 * i, i);
    r.new_tokens = 20 - 3 * i;
    r.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = i == 3 ? 20 : 0;
    r.sampling.seed = 100 + i;
  }
  return requests;
}

}  // namespace shoal::testing
