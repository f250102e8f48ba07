// Ops, and options of ops, that some models have and others have not, beside the reference.
#include <cmath>

#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

// q and k before they rotate: rows of a head, in place, as many as a step has.
TEST(GpuOps, RmsNormOfHeadsInPlace) {
  for (const int dim : {64, 96, 128, 256}) {
    const int rows = Sized(37, 2048 * 40 + 3);
    const auto size = static_cast<size_t>(rows) * dim, width = static_cast<size_t>(dim);
    const auto x = RandomActs(size, Seed() + 200), w = ops::RandomFloats(width, Seed() + 201);
    std::vector<float> in = x, expected(size);
    CallReference(ops::RefTable().rms_norm,
                  ops::RmsNormArgs{in.data(), nullptr, w.data(), expected.data(), rows, dim, 1e-6f, 0});
    const ActArray heads(x);
    const Array<float> device_w(w);
    ops::RmsNormArgs args = {heads.acts(), nullptr, device_w.data(), heads.acts(), rows, dim, 1e-6f, 0};
    Call(Table().rms_norm, args);
    const auto got = heads.Floats();
    ops::ExpectRowsNear(expected, got, width, kActTolerance);
    for (const int row : {0, rows / 2, rows - 1}) {
      const auto at = static_cast<size_t>(row) * width;
      const ActArray alone(std::vector<float>(x.begin() + static_cast<std::ptrdiff_t>(at),
                                              x.begin() + static_cast<std::ptrdiff_t>(at + width)));
      args.x = args.y = alone.acts();
      args.tokens = 1;
      Call(Table().rms_norm, args);
      ops::ExpectSameBits(got.data() + at, alone.Floats().data(), width);
    }
  }
}

TEST(GpuOps, LayerNormWritesOverItsInput) {
  const int rows = Sized(5, 300), dim = Sized(72, 4096);
  const auto size = static_cast<size_t>(rows * dim);
  const auto x = RandomActs(size, Seed() + 202), add = RandomActs(size, Seed() + 203);
  const Array<float> w(ops::RandomFloats(static_cast<size_t>(dim), Seed() + 204));
  const ActArray in_place(x), apart(x), da(add), y(size);
  Call(Table().layer_norm, ops::LayerNormArgs{apart.acts(), da.in(), w.data(), nullptr, y.acts(), rows, dim, 1e-5f});
  Call(Table().layer_norm,
       ops::LayerNormArgs{in_place.acts(), da.in(), w.data(), nullptr, in_place.acts(), rows, dim, 1e-5f});
  ops::ExpectSameBits(y.Floats(), in_place.Floats());
}

TEST(GpuOps, GluWithoutUpIsTheActivationAlone) {
  for (const ops::Activation activation :
       {ops::Activation::kSilu, ops::Activation::kGeluTanh, ops::Activation::kGelu}) {
    const int tokens = Sized(3, 65), dim = Sized(328, 16384);
    const auto size = static_cast<size_t>(tokens) * dim;
    const auto gate = RandomActs(size, Seed() + 205, 2);
    std::vector<float> expected(size);
    CallReference(ops::RefTable().glu, ops::GluArgs{gate.data(), nullptr, expected.data(), tokens, dim, activation});
    const ActArray dg(gate);
    Call(Table().glu, ops::GluArgs{dg.in(), nullptr, dg.acts(), tokens, dim, activation});
    ops::ExpectRowsNear(expected, dg.Floats(), static_cast<size_t>(dim), kActTolerance);
  }
}

TEST(GpuOps, SoftCapIsTheReference) {
  const size_t count = Sized<size_t>(1003, 33 * 128256);
  for (const auto& [scale, cap] : {std::pair{1.0f, 30.0f}, {0.577f, 5.0f}, {0.25f, 0.0f}}) {
    auto logits = ops::RandomFloats(count, Seed() + 206, 40);
    const Array<float> y(logits);
    const ops::SoftCapArgs args = {y.data(), static_cast<int64_t>(count), scale, cap};
    ops::SoftCapArgs on_host = args;
    on_host.y = logits.data();
    CallReference(ops::RefTable().soft_cap, on_host);
    Call(Table().soft_cap, args);
    const auto got = y.Get();
    size_t wrong = 0;
    for (size_t i = 0; i < count; ++i) wrong += std::fabs(got[i] - logits[i]) > 2e-6f * std::fabs(logits[i]) ? 1 : 0;
    EXPECT_EQ(wrong, 0u);
  }
}

TEST(GpuOps, PoolAgreesWithTheReference) {
  const int dim = Sized(72, 1024), count = Sized(3, 64);
  std::vector<int32_t> first, rows;
  int tokens = 0;
  for (int s = 0; s < count; ++s) {
    first.push_back(tokens);
    rows.push_back(1 + s * 7 % 40);
    tokens += rows.back();
  }
  const auto x = RandomActs(static_cast<size_t>(tokens * dim), Seed() + 207);
  const ActArray dx(x);
  const Array<int32_t> device_first(first), device_rows(rows);
  for (const ops::Pooling pooling : {ops::Pooling::kFirst, ops::Pooling::kLast, ops::Pooling::kMean}) {
    for (const bool normalise : {false, true}) {
      std::vector<float> expected(static_cast<size_t>(count * dim));
      const Array<float> y(expected.size());
      ops::PoolArgs args = {x.data(), first.data(), rows.data(), expected.data(), count, dim, pooling, normalise};
      CallReference(ops::RefTable().pool, args);
      args.x = dx.in();
      args.first = device_first.data();
      args.rows = device_rows.data();
      args.y = y.data();
      Call(Table().pool, args);
      ops::ExpectRowsNear(expected, y.Get(), static_cast<size_t>(dim), 1e-5f);
    }
  }
}

}  // namespace
}  // namespace shoal::gpu
