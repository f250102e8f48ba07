#include "kernels/cuda/rope_kv.h"

#include <set>

#include "kernels/cuda/sm80/rope_kv/units.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr int kHeads = 3, kKvHeads = 2, kBlocks = 3, kBlockSize = 16, kPositions = 50;

// Every dimension that moves is in one unit, and none is in two.
TEST(CudaRopeUnits, CoverEachDimensionOnce) {
  for (const rope::Shape& s : {rope::Shape{3, 2, 64, 64, false},
                               {1, 1, 80, 32, false},
                               {4, 1, 64, 24, true},
                               {2, 2, 128, 128, true},
                               {2, 1, 8, 0, false}}) {
    std::set<std::tuple<int, int, int>> seen;
    const auto add = [&](const rope::Unit& u, int vector) {
      EXPECT_TRUE(seen.insert({static_cast<int>(u.of), u.head, vector}).second);
      EXPECT_TRUE(vector % 8 == 0 && vector >= 0 && vector + 8 <= s.head_dim && u.head >= 0);
      EXPECT_LT(u.head, u.of == rope::Of::kQ ? s.q_heads : s.kv_heads);
      EXPECT_EQ(u.rotate, u.of != rope::Of::kV && vector < s.rot_dim);
    };
    for (int i = 0; i < rope::UnitCount(s); ++i) {
      const rope::Unit u = rope::UnitOf(s, i);
      add(u, u.first);
      if (u.rotate && !s.interleaved) add(u, u.first + s.rot_dim / 2);
      if (u.rotate) {
        EXPECT_LE(rope::AngleOf(s, u) + (s.interleaved ? 4 : 8), s.rot_dim / 2);
      }
    }
    EXPECT_EQ(static_cast<int>(seen.size()), s.q_heads * s.rot_dim / 8 + 2 * s.kv_heads * s.head_dim / 8);
  }
}

struct Case {
  int tokens, head_dim, rot_dim;
  bool interleaved;
};

// One run: q, k and v of a token side by side in one buffer.
struct Inputs {
  explicit Inputs(const Case& c)
      : row((kHeads + 2 * kKvHeads) * c.head_dim),
        qkv(RandomBf16(static_cast<size_t>(c.tokens * row), 1, 10)),
        cos(ops::RandomFloats(static_cast<size_t>(kPositions * c.rot_dim / 2), 2)),
        sin(ops::RandomFloats(cos.size(), 3)) {
    for (int t = 0; t < c.tokens; ++t) {
      positions.push_back((t * 31 + 7) % kPositions);
      slots.push_back(t == 4 ? -1 : (t * 29 + 3) % (kBlocks * kBlockSize));
    }
  }
  const int row;
  std::vector<float> qkv, cos, sin;
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
};

// The rows after it, then K's and V's bytes.
template <typename T>
std::vector<uint8_t> OnDevice(const Case& c, const Inputs& in, DType t, size_t from = 0, size_t count = 1000) {
  const size_t row = static_cast<size_t>(in.row), tokens = std::min(count, in.slots.size() - from);
  const int q = kHeads * c.head_dim;
  const auto begin = in.qkv.begin() + static_cast<int64_t>(from * row);
  Buffer<bf16> x(std::vector<float>(begin, begin + static_cast<int64_t>(tokens * row)));
  Buffer<float> cos(in.cos), sin(in.sin);
  Buffer<T> cache(size_t{2} * kBlocks * kKvHeads * kBlockSize * c.head_dim);
  const ops::KvLayer layer = {cache.data(), cache.data() + cache.size() / 2, t, kBlockSize, kKvHeads, c.head_dim};
  const RopeKv op = {x.data(),
                     x.data() + q,
                     x.data() + q + kKvHeads * c.head_dim,
                     in.row,
                     in.row,
                     cos.data(),
                     sin.data(),
                     in.positions.data() + from,
                     in.slots.data() + from,
                     layer,
                     static_cast<int>(tokens),
                     kHeads,
                     c.rot_dim,
                     c.interleaved};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  std::vector<uint8_t> all(x.size() * 2 + cache.size() * sizeof(T));
  std::memcpy(all.data(), x.data(), x.size() * 2);
  std::memcpy(all.data() + x.size() * 2, cache.data(), cache.size() * sizeof(T));
  return all;
}

std::vector<uint8_t> Expected(const Case& c, const Inputs& in, DType t) {
  const int half = c.rot_dim / 2, q_dim = kHeads * c.head_dim;
  std::vector<float> x = in.qkv, cos, sin;
  for (const int32_t p : in.positions) {
    cos.insert(cos.end(), in.cos.begin() + p * half, in.cos.begin() + (p + 1) * half);
    sin.insert(sin.end(), in.sin.begin() + p * half, in.sin.begin() + (p + 1) * half);
  }
  const size_t cache_bytes = RowBytes(t, int64_t{2} * kBlocks * kKvHeads * kBlockSize * c.head_dim);
  std::vector<uint8_t> all(x.size() * 2 + cache_bytes, 0xff);
  uint8_t* const k = all.data() + x.size() * 2;
  const ops::RopeKvArgs args = {x.data(),
                                in.qkv.data() + q_dim,
                                in.qkv.data() + q_dim + kKvHeads * c.head_dim,
                                in.row,
                                in.row,
                                cos.data(),
                                sin.data(),
                                nullptr,
                                in.slots.data(),
                                {k, k + cache_bytes / 2, t, kBlockSize, kKvHeads, c.head_dim},
                                c.tokens,
                                kHeads,
                                c.rot_dim,
                                c.interleaved};
  const auto stream = ops::MakeCpuStream(1);
  EXPECT_TRUE(ops::RefTable().rope_kv(*stream, args).ok());
  for (size_t i = 0; i < x.size(); ++i) {
    const uint16_t rounded = F32ToBF16(x[i]);
    std::memcpy(&all[2 * i], &rounded, 2);
  }
  return all;
}

std::vector<uint8_t> Of(DType t, const Case& c, const Inputs& in) {
  return InEveryOrder<uint8_t>([&] {
    if (t == DType::kF32) return OnDevice<float>(c, in, t);
    return t == DType::kF16 ? OnDevice<f16>(c, in, t) : OnDevice<bf16>(c, in, t);
  });
}

TEST(CudaRopeKv, IsTheReference) {
  for (const Case& c : {Case{21, 64, 64, false},
                        {7, 64, 64, true},
                        {7, 80, 32, false},
                        {7, 64, 24, true},
                        {5, 256, 256, false},
                        {6, 24, 0, false}}) {
    const Inputs in(c);
    for (const DType t : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << c.head_dim << " of which " << c.rot_dim << " rotate, " << Info(t).name);
      EXPECT_EQ(Of(t, c, in), Expected(c, in, t));
    }
  }
}

// All slots of a row alone are those it has among others.
TEST(CudaRopeKv, ARowAloneIsTheRowAmongOthers) {
  const Case c = {9, 128, 128, false};
  const Inputs in(c);
  const auto all = OnDevice<bf16>(c, in, DType::kBF16);
  const size_t row = 2 * static_cast<size_t>(in.row);
  for (size_t t = 0; t < 9; ++t) {
    const auto alone = OnDevice<bf16>(c, in, DType::kBF16, t, 1);
    EXPECT_EQ(std::memcmp(alone.data(), all.data() + t * row, row), 0);
    const size_t line = 2 * static_cast<size_t>(c.head_dim);
    for (size_t at = 0; row + at < alone.size(); at += line) {
      const uint8_t* const mine = alone.data() + row + at;
      if (std::all_of(mine, mine + line, [](uint8_t b) { return b == 0xff; })) continue;
      EXPECT_EQ(std::memcmp(mine, all.data() + 9 * row + at, line), 0);
      EXPECT_GE(in.slots[t], 0) << "a row without a slot was stored";
    }
  }
}

TEST(CudaRopeKv, RefusesShapesItCannotServe) {
  RopeKv op = {};
  op.cache = {nullptr, nullptr, DType::kBF16, 16, 1, 64};
  op.tokens = op.q_heads = 1;
  const auto refused = [](const RopeKv& x) { return Enqueue(nullptr, x).code() == absl::StatusCode::kInvalidArgument; };
  for (const int rot_dim : {24, 72, 80, -16}) {
    op.rot_dim = rot_dim;
    EXPECT_TRUE(refused(op)) << rot_dim;
  }
  op.rot_dim = 0;
  RopeKv other = op;
  other.q_stride = 12;
  EXPECT_TRUE(refused(other));
  other = op;
  other.cache.head_dim = 20;
  EXPECT_TRUE(refused(other));
  other = op;
  other.cache.block_size = 24;
  EXPECT_TRUE(refused(other));
  other = op;
  other.cache.dtype = DType::kQ8_0;
  EXPECT_TRUE(refused(other));
}

}  // namespace
}  // namespace shoal::cuda
