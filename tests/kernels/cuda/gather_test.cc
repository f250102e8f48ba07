// gather_rows, gather_ids and scatter_ids.
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

TEST(CudaGatherIds, TakesLiteralsAndWhatWasSampled) {
  std::vector<int32_t> last(32), sources(600), expected(600);
  for (int i = 0; i < 32; ++i) last[static_cast<size_t>(i)] = 5000 + i;
  for (int t = 0; t < 600; ++t) {
    const int place = t * 5 % 32;
    sources[static_cast<size_t>(t)] = t % 3 == 0 ? t : ~place;
    expected[static_cast<size_t>(t)] = t % 3 == 0 ? t : 5000 + place;
  }
  const auto run = [&](bool alias) {
    std::vector<int32_t> from = sources, to(600, -7);
    int32_t* const ids = alias ? from.data() : to.data();
    EXPECT_TRUE(Enqueue(nullptr, ops::GatherIdsArgs{from.data(), last.data(), ids, 600}).ok());
    return alias ? from : to;
  };
  EXPECT_EQ(InEveryOrder<int32_t>([&] { return run(false); }), expected);
  EXPECT_EQ(run(true), expected);
}

TEST(CudaScatterIds, FillsPlacesAndSkipsPadding) {
  std::vector<int32_t> tokens(300), places(300), expected(400, -99);
  for (int i = 0; i < 300; ++i) {
    tokens[static_cast<size_t>(i)] = i % 7 == 0 ? -1 : 1000 + i;
    places[static_cast<size_t>(i)] = i % 5 == 0 ? -1 : 399 - i;
    if (i % 5 != 0) expected[static_cast<size_t>(399 - i)] = i % 7 == 0 ? 0 : 1000 + i;
  }
  const auto last = InEveryOrder<int32_t>([&] {
    std::vector<int32_t> to(400, -99);
    EXPECT_TRUE(Enqueue(nullptr, ops::ScatterIdsArgs{tokens.data(), places.data(), to.data(), 300}).ok());
    return to;
  });
  EXPECT_EQ(last, expected);
}

}  // namespace
}  // namespace shoal::cuda
