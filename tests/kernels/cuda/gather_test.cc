// gather_rows and gather_ids.
#include "kernels/cuda/gather_ids.h"
#include "kernels/cuda/gather_rows.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

TEST(CudaGatherRows, CopiesRowsAndPadsWithZeros) {
  for (const int dim : {8, 264, 4104}) {
    const auto x = RandomBf16(static_cast<size_t>(9 * dim), 1);
    const std::vector<int32_t> rows = {8, -1, 0, 3, 3, -1};
    const auto got = InEveryOrder<float>([&] {
      Buffer<bf16> from(x), to(rows.size() * static_cast<size_t>(dim));
      EXPECT_TRUE(Enqueue(nullptr, GatherRows{from.data(), rows.data(), to.data(), 6, dim}).ok());
      return to.Floats();
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      std::vector<float> expected(static_cast<size_t>(dim), 0.0f);
      if (rows[i] >= 0) expected.assign(x.begin() + rows[i] * dim, x.begin() + (rows[i] + 1) * dim);
      ops::ExpectSameBits(expected.data(), got.data() + i * static_cast<size_t>(dim), static_cast<size_t>(dim));
    }
  }
}

TEST(CudaGatherRows, RefusesAWidthThatIsNotInWholeVectors) {
  EXPECT_EQ(Enqueue(nullptr, GatherRows{nullptr, nullptr, nullptr, 1, 20}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(CudaGatherIds, TakesLiteralsAndWhatTheMailboxHas) {
  std::vector<int32_t> mailbox(4 * 8), sources(600), expected(600);
  for (int i = 0; i < 32; ++i) mailbox[static_cast<size_t>(i)] = 5000 + i;
  for (int t = 0; t < 600; ++t) {
    const int slot = t % 4, index = t % 7;
    sources[static_cast<size_t>(t)] = t % 3 == 0 ? t : ~(slot * 8 + index);
    expected[static_cast<size_t>(t)] = t % 3 == 0 ? t : 5000 + slot * 8 + index;
  }
  const auto run = [&](bool alias) {
    std::vector<int32_t> from = sources, to(600, -7);
    int32_t* const ids = alias ? from.data() : to.data();
    EXPECT_TRUE(Enqueue(nullptr, GatherIds{from.data(), mailbox.data(), ids, 600}).ok());
    return alias ? from : to;
  };
  EXPECT_EQ(InEveryOrder<int32_t>([&] { return run(false); }), expected);
  EXPECT_EQ(run(true), expected);
}

}  // namespace
}  // namespace shoal::cuda
