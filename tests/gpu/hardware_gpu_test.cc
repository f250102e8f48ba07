// What else is taken for granted about a device and no host can show: recorded work gives the bits of single ops, the
// same work gives the same bits every time, and copies keep their order among kernels.
#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

// x joined with y, normalised, multiplied and activated: four ops that pass results on.
struct Chain {
  explicit Chain(int tokens)
      : tokens(tokens),
        dim(Sized(64, 4096)),
        ffn(Sized(96, 14336)),
        gate_w(DType::kBF16, ffn, dim, Seed() + 80),
        up_w(DType::kQ8_0, ffn, dim, Seed() + 81),
        norm_w(ops::RandomFloats(static_cast<size_t>(dim), Seed() + 82)),
        x(Size(dim)),
        add(Size(dim)),
        h(Size(dim)),
        gate(Size(ffn)),
        up(Size(ffn)) {}
  size_t Size(int width) const { return static_cast<size_t>(tokens) * static_cast<size_t>(width); }
  void SetInputs(uint64_t seed) {
    x.Set(RandomActs(Size(dim), Seed() + seed));
    add.Set(RandomActs(Size(dim), Seed() + seed + 1));
  }
  absl::Status Enqueue() {
    const ops::OpTable& table = Table();
    ops::Stream& stream = Gpu().stream();
    const ops::RmsNormArgs norm = {x.acts(), add.in(), norm_w.data(), h.acts(), tokens, dim, 1e-5f, 0};
    if (absl::Status s = table.rms_norm(stream, norm); !s.ok()) return s;
    ops::MatmulArgs product = {.x = h.in(), .xq = nullptr, .parts = {}, .part_count = 2, .tokens = tokens, .k = dim};
    product.parts[0] = {gate_w.view(), gate.acts(), ffn};
    product.parts[1] = {up_w.view(), up.acts(), ffn};
    if (absl::Status s = table.matmul(stream, product); !s.ok()) return s;
    return table.glu(stream, ops::GluArgs{gate.in(), up.in(), gate.acts(), tokens, ffn, ops::Activation::kSilu});
  }
  // Of one pass over new inputs.
  std::vector<float> Result(uint64_t seed, const std::function<absl::Status()>& pass) {
    SetInputs(seed);
    const absl::Status passed = pass();
    EXPECT_TRUE(passed.ok()) << passed;
    return gate.Floats();
  }

  const int tokens, dim, ffn;
  const DeviceMatrix gate_w, up_w;
  const Array<float> norm_w;
  ActArray x, add, h, gate, up;
};

TEST(GpuGraphs, ReplayGivesTheBitsOfSingleOpsOnWhatMemoryThenHolds) {
  for (const int tokens : Sized<std::vector<int>>({1, 9}, {1, 8, 32, 129})) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    Chain chain(tokens);
    const auto eager = [&] { return chain.Enqueue(); };
    const auto first = chain.Result(90, eager), second = chain.Result(92, eager);
    EXPECT_NE(first, second);
    chain.SetInputs(94);
    auto graph = Gpu().Record(eager);
    ASSERT_TRUE(graph.ok()) << graph.status();
    const auto replay = [&] { return Gpu().Launch(**graph); };
    for (int round = 0; round < 3; ++round) {
      ops::ExpectSameBits(first, chain.Result(90, replay));
      ops::ExpectSameBits(second, chain.Result(92, replay));
    }
  }
}

TEST(GpuOrder, TheSameWorkGivesTheSameBitsEveryTime) {
  Chain chain(Sized(5, 65));
  const auto eager = [&] { return chain.Enqueue(); };
  const auto first = chain.Result(96, eager);
  for (int round = 0; round < Sized(3, 50); ++round) ops::ExpectSameBits(first, chain.Result(96, eager));
}

// Uploads before a kernel are seen by it, and those behind it are not; nobody waits between them.
TEST(GpuOrder, UploadsAndKernelsKeepTheirOrder) {
  const int count = Sized(100, 100000);
  const Array<int32_t> sources(static_cast<size_t>(count)), last(std::vector<int32_t>{-7});
  std::vector<Array<int32_t>> results;
  constexpr int kRounds = 20;
  for (int round = 0; round < kRounds; ++round) results.emplace_back(static_cast<size_t>(count));
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<int32_t> values(static_cast<size_t>(count), round);
    ASSERT_TRUE(Gpu().Upload(sources.data(), values.data(), values.size() * sizeof(int32_t)).ok());
    Call(Table().gather_ids,
         ops::GatherIdsArgs{sources.data(), last.data(), results[static_cast<size_t>(round)].data(), count});
  }
  for (int round = 0; round < kRounds; ++round) {
    EXPECT_EQ(results[static_cast<size_t>(round)].Get(), std::vector<int32_t>(static_cast<size_t>(count), round));
  }
}

TEST(GpuMarks, AMarkIsReachedWhenItsWorkIsDone) {
  Chain chain(Sized(3, 64));
  chain.SetInputs(98);
  auto host = Gpu().AllocateHost(chain.gate.size() * sizeof(uint16_t));
  ASSERT_TRUE(host.ok()) << host.status();
  std::memset(host->data(), 0xee, host->size());
  ASSERT_TRUE(chain.Enqueue().ok());
  ASSERT_TRUE(Gpu().Fetch(host->data(), chain.gate.data(), host->size()).ok());
  const auto mark = Gpu().Mark();
  ASSERT_TRUE(mark.ok()) << mark.status();
  absl::StatusOr<bool> reached = Gpu().Reached(*mark);
  while (reached.ok() && !*reached) reached = Gpu().Reached(*mark);
  ASSERT_TRUE(reached.ok()) << reached.status();
  const std::vector<float> got = chain.gate.Floats();
  std::vector<float> fetched(got.size());
  for (size_t i = 0; i < got.size(); ++i) fetched[i] = BF16ToF32(host->as<uint16_t>()[i]);
  ops::ExpectSameBits(got, fetched);
}

}  // namespace
}  // namespace shoal::gpu
