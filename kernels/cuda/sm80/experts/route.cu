// Tested by: tests/kernels/cuda/experts_test.cc
// Two launches. `choose`: a warp for each token, whose lanes have its experts. `sort`: a stable counting sort by one
// block, which needs no memory but its own: its warps have consecutive stretches of the (token, place)s, count them by
// expert, and place them in a second walk. It reads 4 bytes of each twice and writes 8: for 16,384 of them some 20 us
// (an estimate), little beside what experts then multiply for so many.
#include <algorithm>

#include "kernels/cuda/experts.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda {
namespace {

constexpr int kChooseWarps = 4;
constexpr int kOwn = ops::kMaxExperts / 32;  // experts of a lane: lane, lane + 32, ...
constexpr int kSortWarps = 32, kSortThreads = 32 * kSortWarps;

// Greater for greater numbers, and the same for both zeros. What is no number lies at one end or the other.
__device__ uint32_t Rank(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// A logit's rank above the inverted id: greatest is the largest logit, of equal ones that of the lowest id.
struct Candidate {
  uint32_t rank, inverted_id;  // 0, 0: none
  __device__ bool Beats(const Candidate& other) const {
    return rank > other.rank || (rank == other.rank && inverted_id > other.inverted_id);
  }
};
__device__ Candidate WarpBest(Candidate best) {
  SHOAL_UNROLL for (int d = 16; d > 0; d /= 2) {
    const Candidate other = {static_cast<uint32_t>(ShuffleXor(static_cast<int>(best.rank), d)),
                             static_cast<uint32_t>(ShuffleXor(static_cast<int>(best.inverted_id), d))};
    if (other.Beats(best)) best = other;
  }
  return best;
}
// The same bits in every lane: both of a pair add the same two.
__device__ double WarpSumOfDoubles(double x) {
  SHOAL_UNROLL for (int d = 16; d > 0; d /= 2) {
    const uint64_t bits = __double_as_longlong(x);
    const auto low = static_cast<uint32_t>(ShuffleXor(static_cast<int>(bits), d));
    const auto high = static_cast<uint32_t>(ShuffleXor(static_cast<int>(bits >> 32), d));
    x += __longlong_as_double(static_cast<int64_t>(uint64_t{high} << 32 | low));
  }
  return x;
}

// Leaves the expert of each (token, place) in `sorted`.
__global__ void __launch_bounds__(32 * kChooseWarps) ChooseExperts(const ops::RouteArgs op) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int t = static_cast<int>(blockIdx.x) * kChooseWarps + static_cast<int>(threadIdx.x) / 32;
  if (t >= op.tokens) return;
  const float* const row = op.logits + static_cast<int64_t>(t) * op.experts;
  float logits[kOwn], greatest = -__builtin_huge_valf();
  SHOAL_UNROLL for (int i = 0; i < kOwn; ++i) {
    const int e = lane + 32 * i;
    logits[i] = e < op.experts ? row[e] : -__builtin_huge_valf();
    greatest = fmaxf(greatest, logits[i]);
  }
  greatest = WarpMax(greatest);
  double sum = 0;
  SHOAL_UNROLL for (int i = 0; i < kOwn; ++i) {
    if (lane + 32 * i < op.experts) sum += exp(static_cast<double>(logits[i]) - static_cast<double>(greatest));
  }
  const double total = WarpSumOfDoubles(sum);
  uint32_t taken = 0;  // bit i: expert lane + 32 i
  double own = 0, used = 0;
  for (int j = 0; j < op.used; ++j) {
    Candidate best = {0, 0};
    SHOAL_UNROLL for (int i = 0; i < kOwn; ++i) {
      const int e = lane + 32 * i;
      const Candidate c = {Rank(logits[i]), ~static_cast<uint32_t>(e)};
      if (e < op.experts && (taken >> i & 1) == 0 && c.Beats(best)) best = c;
    }
    best = WarpBest(best);
    const int e = static_cast<int>(~best.inverted_id);
    if (e % 32 == lane) taken |= 1u << (e / 32);
    const double p = exp(static_cast<double>(row[e]) - static_cast<double>(greatest)) / total;
    used += p;
    if (lane == j) own = p;
    if (lane == 0) op.out.sorted[static_cast<int64_t>(t) * op.used + j] = e;
  }
  if (lane < op.used) {
    op.out.weights[static_cast<int64_t>(t) * op.used + lane] = static_cast<float>(op.renormalise ? own / used : own);
  }
}

struct SortShared {
  int32_t count[kSortWarps][ops::kMaxExperts];  // of a warp; then where its first of an expert goes
  int32_t warp_sum[kSortWarps];
};

// The stretch of a warp: whole rounds of 32.
struct Stretch {
  int begin, end;
};
__device__ Stretch StretchOf(int rows, int warp) {
  const int rounds = (rows + 31) / 32, each = (rounds + kSortWarps - 1) / kSortWarps;
  return {min(warp * each * 32, rows), min((warp + 1) * each * 32, rows)};
}

// Calls f(i, expert, equal) for each of the warp's, in order; `equal`: the lanes of this round with the same expert. A
// lane without a row has expert -1.
template <typename F>
__device__ void ForEachRound(const int32_t* experts, Stretch s, int lane, F f) {
  int next = s.begin + lane < s.end ? experts[s.begin + lane] : -1;
  for (int begin = s.begin; begin < s.end; begin += 32) {
    const int e = next, after = begin + 32 + lane;
    next = after < s.end ? experts[after] : -1;  // on its way meanwhile
    f(begin + lane, e, MatchAny(static_cast<uint64_t>(e + 1)));
    SyncWarp();
  }
}

// first[e], and of each (warp, expert) where its first goes.
__device__ void PlaceCounts(const ops::RouteArgs& op, SortShared& shared) {
  const int e = static_cast<int>(threadIdx.x), lane = e % 32, warp = e / 32;
  int32_t own = 0;
  if (e < op.experts) {
    for (int w = 0; w < kSortWarps; ++w) own += shared.count[w][e];
  }
  int32_t before = own;  // inclusive, of the warp's experts
  SHOAL_UNROLL for (int d = 1; d < 32; d *= 2) {
    const int32_t other = Shuffle(before, lane >= d ? lane - d : lane);
    if (lane >= d) before += other;
  }
  if (lane == 31) shared.warp_sum[warp] = before;
  __syncthreads();
  before -= own;
  for (int w = 0; w < warp; ++w) before += shared.warp_sum[w];
  if (e < op.experts) {
    op.out.first[e] = before;
    if (e == op.experts - 1) op.out.first[op.experts] = before + own;
    for (int w = 0; w < kSortWarps; ++w) {
      const int32_t count = shared.count[w][e];
      shared.count[w][e] = before;
      before += count;
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSortThreads) SortByExpert(const ops::RouteArgs op) {
  SortShared& shared = Shared<SortShared>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t below = (1u << lane) - 1;
  const Stretch stretch = StretchOf(op.tokens * op.used, warp);
  int32_t(&count)[ops::kMaxExperts] = shared.count[warp];
  for (int e = lane; e < op.experts; e += 32) count[e] = 0;
  SyncWarp();
  ForEachRound(op.out.sorted, stretch, lane, [&](int, int e, uint32_t equal) {
    if (e >= 0 && (equal & below) == 0) count[e] += __popc(equal);
  });
  __syncthreads();
  PlaceCounts(op, shared);
  ForEachRound(op.out.sorted, stretch, lane, [&](int i, int e, uint32_t equal) {
    const int32_t to = e >= 0 ? count[e] + __popc(equal & below) : 0;
    SyncWarp();  // all have read it
    if (e < 0) return;
    if ((equal & below) == 0) count[e] += __popc(equal);
    op.out.sorted[i] = to;
    op.out.tokens[to] = i / op.used;
  });
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::RouteArgs& op) {
  if (op.experts > ops::kMaxExperts || op.used > ops::kMaxExpertsUsed || op.used > op.experts || op.used < 1) {
    return absl::InvalidArgumentError("route: so many experts are not served");
  }
  if (op.tokens < 0 || op.tokens > INT32_MAX / op.used) return absl::InvalidArgumentError("route: too many tokens");
  if (op.tokens > 0) {
    const unsigned blocks = (static_cast<unsigned>(op.tokens) + kChooseWarps - 1) / kChooseWarps;
    const absl::Status chosen =
        Launch(stream, "route, choose", {dim3{blocks}, dim3{32 * kChooseWarps}, 0}, ChooseExperts, op);
    if (!chosen.ok()) return chosen;
  }
  return Launch(stream, "route, sort", {dim3{1}, dim3{kSortThreads}, sizeof(SortShared)}, SortByExpert, op);
}

}  // namespace shoal::cuda
