// Mixtures of experts on the device: where tokens go, what experts make of them, how it comes back.
#include <algorithm>
#include <cmath>

#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

// Routes on the device, and as the host reads them.
struct Routed {
  Routed(int tokens_count, int experts, int used)
      : weights(static_cast<size_t>(tokens_count * used)),
        sorted(weights.size()),
        tokens(weights.size()),
        first(static_cast<size_t>(experts) + 1) {}
  ops::Routes View() const { return {weights.data(), sorted.data(), tokens.data(), first.data()}; }
  Array<float> weights;
  Array<int32_t> sorted, tokens, first;
};

struct Case {
  int tokens, experts, used;
};

// The largest is what the contract goes up to.
TEST(GpuExperts, RouteIsTheReference) {
  for (const Case& c :
       Sized<std::vector<Case>>({{1, 8, 2}, {40, 60, 4}, {33, 512, 16}},
                                {{1, 8, 2}, {1, 128, 8}, {64, 128, 8}, {2048, 8, 2}, {3001, 60, 4}, {8192, 512, 16}})) {
    for (const bool renormalise : {false, true}) {
      SCOPED_TRACE(testing::Message() << c.tokens << " tokens, " << c.used << " of " << c.experts);
      auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), Seed() + 300, 2);
      for (size_t i = 0; i < logits.size(); i += 3) logits[i] = std::round(logits[i]);  // some are equal
      const Array<float> device_logits(logits);
      const Routed r(c.tokens, c.experts, c.used);
      Call(Table().route, ops::RouteArgs{device_logits.data(), r.View(), c.tokens, c.experts, c.used, renormalise});
      std::vector<float> weights(r.weights.size());
      std::vector<int32_t> sorted(r.sorted.size()), tokens(r.tokens.size()), first(r.first.size());
      CallReference(ops::RefTable().route, ops::RouteArgs{logits.data(),
                                                          {weights.data(), sorted.data(), tokens.data(), first.data()},
                                                          c.tokens,
                                                          c.experts,
                                                          c.used,
                                                          renormalise});
      EXPECT_TRUE(r.first.Get() == first);
      EXPECT_TRUE(r.sorted.Get() == sorted);
      EXPECT_TRUE(r.tokens.Get() == tokens);
      const auto got = r.weights.Get();
      float worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(got[i] / weights[i] - 1));
      EXPECT_LE(worst, 2e-7f);
    }
  }
}

// Matrices of experts one behind the other; neighbours differ. Making more of them would take long.
constexpr int kDifferent = 5;
struct Stack {
  Stack(DType t, int experts, int n, int k, uint64_t seed)
      : stride(static_cast<int64_t>((Table().packed_bytes(t, n, k) + 63) / 64 * 64)),
        packed(static_cast<size_t>(stride * experts)),
        scale(ops::RandomFloats(static_cast<size_t>(experts * n), seed)),
        bias(ops::RandomFloats(static_cast<size_t>(experts * n), seed + 1, 10)),
        view({{packed.data(), t, n, k, scale.data(), bias.data()}, stride}) {
    std::vector<uint8_t> bytes(packed.size());
    for (int e = 0; e < experts; ++e) {
      if (e >= kDifferent) {
        std::copy_n(bytes.begin() + (e - kDifferent) * stride, stride, bytes.begin() + e * stride);
        continue;
      }
      const auto canonical = ops::RandomWeight(t, n, k, seed + 10 + static_cast<uint64_t>(e));
      Table().pack_rows(t, canonical.data(), 0, n, n, k, bytes.data() + e * stride);
    }
    packed.Set(bytes);
  }
  int64_t stride;
  Array<uint8_t> packed;
  Array<float> scale, bias;
  ops::ExpertWeights view;
};

// Rows [begin, end) by matmul with one expert's matrix.
std::vector<uint16_t> OneByOne(const ops::ExpertWeights& w, const ActArray& x, const std::vector<int32_t>& first) {
  const auto n = static_cast<size_t>(w.first.n), k = static_cast<size_t>(w.first.k);
  const Array<uint16_t> y(static_cast<size_t>(first.back()) * n);
  for (size_t e = 0; e + 1 < first.size(); ++e) {
    if (first[e] == first[e + 1]) continue;
    const auto begin = static_cast<size_t>(first[e]);
    ops::MatmulArgs args = {.x = x.in(begin * k),
                            .xq = nullptr,
                            .parts = {},
                            .part_count = 1,
                            .tokens = first[e + 1] - first[e],
                            .k = static_cast<int>(k)};
    args.parts[0] = {ops::WeightOf(w, static_cast<int64_t>(e)), ops::Acts(static_cast<void*>(y.data() + begin * n)),
                     w.first.n};
    Call(Table().matmul, args);
  }
  return y.Get();
}

// To the bit; all in one expert, in a few, and in all. Where they go is read on the device: the same call again with
// other routes.
TEST(GpuExperts, RowsAreThoseOfTheirExpertsMatmul) {
  const int experts = Sized(7, 64), n = Sized(35, 776), k = Sized(160, 1056);
  for (const DType t : WeightTypes()) {
    SCOPED_TRACE(Info(t).name);
    const Stack a(t, experts, n, k, Seed() + 310), b(t, experts, n, k, Seed() + 400);
    for (const int rows : Sized<std::vector<int>>({9, 53}, {8, 500, 3000})) {
      const ActArray x(RandomActs(static_cast<size_t>(rows) * static_cast<size_t>(k), Seed() + 311));
      const auto size = static_cast<size_t>(rows) * static_cast<size_t>(n);
      const Array<uint16_t> ya(size), yb(size);
      Array<int32_t> device_first(static_cast<size_t>(experts) + 1);
      ops::ExpertMatmulArgs args = {x.in(), nullptr, {}, 2, device_first.data(), rows, k, experts};
      args.parts[0] = {a.view, ops::Acts(static_cast<void*>(ya.data()))};
      args.parts[1] = {b.view, ops::Acts(static_cast<void*>(yb.data()))};
      for (const int spread : {1, 3, experts}) {
        std::vector<int32_t> first(static_cast<size_t>(experts) + 1, rows);
        for (int e = 0; e < experts; ++e) {
          const int of_spread = e * spread / experts;  // the squares of it: some have many rows, the first none
          first[static_cast<size_t>(e)] = static_cast<int32_t>(int64_t{rows} * of_spread * of_spread / spread / spread);
        }
        device_first.Set(first);
        Call(Table().expert_matmul, args);
        EXPECT_TRUE(ya.Get() == OneByOne(a.view, x, first)) << rows << " rows";
        EXPECT_TRUE(yb.Get() == OneByOne(b.view, x, first)) << rows << " rows";
      }
    }
  }
}

TEST(GpuExperts, JoinIsTheReference) {
  const int tokens = Sized(6, 700), used = Sized(3, 8), dim = Sized(72, 4096);
  const auto rows = static_cast<size_t>(tokens * used);
  const auto y = RandomActs(rows * static_cast<size_t>(dim), Seed() + 320);
  const auto weights = ops::RandomFloats(rows, Seed() + 321);
  std::vector<int32_t> sorted(rows);
  for (size_t i = 0; i < rows; ++i) sorted[i] = static_cast<int32_t>(rows - 1 - i);
  std::vector<float> expected(static_cast<size_t>(tokens) * static_cast<size_t>(dim));
  CallReference(ops::RefTable().join_experts,
                ops::JoinExpertsArgs{y.data(), weights.data(), sorted.data(), expected.data(), tokens, used, dim});
  const ActArray dy(y), out(expected.size());
  const Array<float> device_weights(weights);
  const Array<int32_t> device_sorted(sorted);
  Call(Table().join_experts,
       ops::JoinExpertsArgs{dy.in(), device_weights.data(), device_sorted.data(), out.acts(), tokens, used, dim});
  ops::ExpectSameBits(Rounded(expected), out.Floats());
}

}  // namespace
}  // namespace shoal::gpu
