// Finding places in the order of a row's logits, by passes over it from the cache and no sort: of kBins stretches of
// the order (rank.h) one pass sums the weights and counts the members; a place lies in one stretch, whose few members
// another pass collects in shared memory, where each sums what comes before it. A stretch of too many members is cut
// again, by key. All sums are of integers: their order does not matter, so shared counters may be added to by any
// thread at any time. All threads of a block call.
#pragma once

#include "kernels/cuda/sm80/sample/changes.h"
#include "kernels/cuda/sm80/sample/rank.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda::sample {

inline constexpr int kMinThreads = 64, kMaxThreads = 1024;
inline constexpr int kCandidates = 1024;

// What comes before each bin, and at the end all.
struct Before {
  uint64_t weight[kBins + 1];
  uint32_t count[kBins + 1];
};
// Ascending: falling logit, then rising id, which is the low half.
SHOAL_HD inline uint64_t OrderOf(float logit, int id) {
  return uint64_t{~KeyOf(logit)} << 32 | static_cast<uint32_t>(id);
}
struct Candidate {
  uint64_t order;
  uint64_t weight;
};
struct SampleShared {
  Candidate candidates[kCandidates];
  Before by_gap, by_key;
  uint32_t limbs[kLimbs][kBins];
  uint64_t of_warp[kMaxThreads / 32];
  uint32_t count_of_warp[kMaxThreads / 32];
  uint32_t members, highest, lowest_inverted;  // of the bin that was collected: their number and keys
  int bin;
  uint64_t found_weight;
  int32_t found_id;
};

template <typename L>
struct Row {
  L logits;
  double largest, per_temperature;
  __device__ uint64_t Weight(float logit) const {
    return WeightOf((largest - static_cast<double>(logit)) * per_temperature);
  }
};

// The first in the order up to which, itself included, there are more than `more_than`: ids, or weight.
struct Place {
  bool by_count;
  uint64_t more_than;
};

__device__ inline int Thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int Threads() { return static_cast<int>(blockDim.x); }

__device__ inline uint64_t Shuffle64(uint64_t x, int lane) {
  const auto low = static_cast<uint32_t>(Shuffle(static_cast<int>(x), lane));
  const auto high = static_cast<uint32_t>(Shuffle(static_cast<int>(x >> 32), lane));
  return uint64_t{high} << 32 | low;
}

struct Larger {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};
struct Sum {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
// Over the block; all get it.
template <typename F>
__device__ uint64_t Reduce(SampleShared& s, uint64_t x, F join) {
  SHOAL_UNROLL for (int d = 16; d > 0; d /= 2) x = join(x, Shuffle64(x, (Thread() & 31) ^ d));
  __syncthreads();
  if (Thread() % 32 == 0) s.of_warp[Thread() / 32] = x;
  __syncthreads();
  x = s.of_warp[0];
  for (int w = 1; w < Threads() / 32; ++w) x = join(x, s.of_warp[w]);
  return x;
}

// f(id, logit) for each, 16 bytes at a time where the row allows; the next are under way meanwhile.
template <typename L, typename F>
__device__ void ForEach(const L& row, F f) {
  const int whole = reinterpret_cast<uintptr_t>(row.logits) % 16 == 0 ? row.vocab & ~3 : 0, step = 4 * Threads();
  typename L::Four next = {};
  if (4 * Thread() < whole) next = row.Load(4 * Thread());
  for (int i = 4 * Thread(); i < whole; i += step) {
    const float4 now = row.Values(next);
    if (i + step < whole) next = row.Load(i + step);
    f(i, now.x);
    f(i + 1, now.y);
    f(i + 2, now.z);
    f(i + 3, now.w);
  }
  for (int i = whole + Thread(); i < row.vocab; i += Threads()) f(i, row.At(i));
}

// The largest logit's key and, inverted, its lowest id; all ones when there is a NaN.
template <typename L>
__device__ uint64_t Largest(SampleShared& s, const L& logits) {
  uint64_t best = 0;
  ForEach(logits, [&](int id, float logit) {
    const uint64_t mine = uint64_t{KeyOf(logit)} << 32 | ~static_cast<uint32_t>(id);
    best = Larger()(best, IsNan(logit) ? ~uint64_t{0} : mine);
  });
  return Reduce(s, best, Larger());
}

// before := running sums of the counts in it and of the limbs.
__device__ inline void SumBins(SampleShared& s, Before& before) {
  const int per_thread = kBins / Threads(), begin = Thread() * per_thread, lane = Thread() % 32;
  const auto weight_of = [&](int bin) {
    return s.limbs[0][bin] + (uint64_t{s.limbs[1][bin]} << kLimbBits) + (uint64_t{s.limbs[2][bin]} << 2 * kLimbBits);
  };
  uint64_t own_weight = 0, own_count = 0;
  for (int b = begin; b < begin + per_thread; ++b) {
    own_weight += weight_of(b);
    own_count += before.count[b];
  }
  uint64_t weight = own_weight, count = own_count;
  SHOAL_UNROLL for (int d = 1; d < 32; d *= 2) {
    const uint64_t w = Shuffle64(weight, lane - d), c = Shuffle64(count, lane - d);
    weight += lane >= d ? w : 0;
    count += lane >= d ? c : 0;
  }
  if (lane == 31) {
    s.of_warp[Thread() / 32] = weight;
    s.count_of_warp[Thread() / 32] = static_cast<uint32_t>(count);
  }
  __syncthreads();
  weight -= own_weight;
  count -= own_count;
  for (int w = 0; w < Thread() / 32; ++w) {
    weight += s.of_warp[w];
    count += s.count_of_warp[w];
  }
  for (int b = begin; b < begin + per_thread; ++b) {
    const uint32_t in_bin = before.count[b];
    before.weight[b] = weight;
    before.count[b] = static_cast<uint32_t>(count);
    weight += weight_of(b);
    count += in_bin;
  }
  if (Thread() == Threads() - 1) {
    before.weight[kBins] = weight;
    before.count[kBins] = static_cast<uint32_t>(count);
  }
  __syncthreads();
}

// One pass. Returns the weight of all tokens of at least weight `least`, to all threads. Counts only when asked to, and
// no token that is forbidden: they would all meet in one counter.
template <typename L>
__device__ uint64_t FillBins(SampleShared& s, const Row<L>& row, const Cut& cut, bool counts, uint64_t least,
                             Before& before) {
  for (int b = Thread(); b < kBins; b += Threads()) {
    before.count[b] = 0;
    SHOAL_UNROLL for (int l = 0; l < kLimbs; ++l) s.limbs[l][b] = 0;
  }
  __syncthreads();
  uint64_t heavy = 0;
  ForEach(row.logits, [&](int, float logit) {
    const int bin = BinOf(cut, logit);
    if (bin < 0) return;
    if (counts && logit > -kInfinity) atomicAdd(&before.count[bin], 1u);
    const uint64_t weight = row.Weight(logit);
    heavy += weight >= least ? weight : 0;
    SHOAL_UNROLL for (int l = 0; l < kLimbs; ++l) {
      const uint32_t mask = l + 1 < kLimbs ? (1u << kLimbBits) - 1 : ~0u;
      const uint32_t limb = static_cast<uint32_t>(weight >> l * kLimbBits) & mask;
      if (limb != 0) atomicAdd(&s.limbs[l][bin], limb);  // most weights are far below 1: their high limbs are 0
    }
  });
  __syncthreads();
  SumBins(s, before);
  return Reduce(s, heavy, Sum());
}

// s.bin := the bin of the place.
__device__ inline int FindBin(SampleShared& s, const Before& before, const Place& place) {
  for (int b = Thread(); b < kBins; b += Threads()) {
    const uint64_t begin = place.by_count ? before.count[b] : before.weight[b];
    const uint64_t end = place.by_count ? before.count[b + 1] : before.weight[b + 1];
    if (begin <= place.more_than && place.more_than < end) s.bin = b;
  }
  __syncthreads();
  return s.bin;
}

// One pass: the members of a bin, as many as there is room for, how many there are, and the range of their keys.
template <typename L>
__device__ void Collect(SampleShared& s, const Row<L>& row, const Cut& cut, int bin) {
  if (Thread() == 0) s.members = s.highest = s.lowest_inverted = 0;
  __syncthreads();
  ForEach(row.logits, [&](int id, float logit) {
    if (BinOf(cut, logit) != bin) return;
    const uint32_t key = KeyOf(logit);
    atomicMax(&s.highest, key);
    atomicMax(&s.lowest_inverted, ~key);
    const uint32_t at = atomicAdd(&s.members, 1u);
    if (at >= kCandidates) return;
    s.candidates[at] = {OrderOf(logit, id), row.Weight(logit)};
  });
  __syncthreads();
}

// The place among the candidates, whose sum begins at `base`.
__device__ inline void FindCandidate(SampleShared& s, const Place& place, uint64_t base) {
  const int members = static_cast<int>(s.members);
  for (int c = Thread(); c < members; c += Threads()) {
    const Candidate own = s.candidates[c];
    uint64_t weight = 0, count = 0;
    for (int i = 0; i < members; ++i) {
      const Candidate other = s.candidates[i];
      if (other.order >= own.order) continue;
      weight += other.weight;
      ++count;
    }
    const uint64_t begin = place.by_count ? count : weight, width = place.by_count ? 1 : own.weight;
    if (place.more_than < begin || place.more_than >= begin + width) continue;
    s.found_weight = base + weight + own.weight;
    s.found_id = static_cast<int32_t>(own.order);
  }
  __syncthreads();
}

// Two passes: the id of which `n` lower ones have the same key. Each warp has its stretch of ids.
template <typename L>
__device__ void FindEqual(SampleShared& s, const Row<L>& row, uint32_t key, uint32_t n) {
  const int warps = Threads() / 32, warp = Thread() / 32, lane = Thread() % 32;
  const int per_warp = (row.logits.vocab + warps - 1) / warps, begin = warp * per_warp;
  const int end = min(begin + per_warp, row.logits.vocab);
  const auto equal = [&](int i) { return i + lane < end && KeyOf(row.logits.At(i + lane)) == key; };
  uint32_t count = 0;
  for (int i = begin; i < end; i += 32) count += static_cast<uint32_t>(__popc(Ballot(equal(i))));
  if (lane == 0) s.count_of_warp[warp] = count;
  __syncthreads();
  uint32_t before = 0;
  for (int w = 0; w < warp; ++w) before += s.count_of_warp[w];
  if (before <= n && n < before + count) {
    for (int i = begin; i < end; i += 32) {
      const bool mine = equal(i);
      const uint32_t votes = Ballot(mine);
      if (mine && before + static_cast<uint32_t>(__popc(votes & ((1u << lane) - 1))) == n) s.found_id = i + lane;
      before += static_cast<uint32_t>(__popc(votes));
    }
  }
  __syncthreads();
}

// s.found_weight, found_id := at the place: the sum up to it, itself included, and its id. It has a weight, or is asked
// for by count and no forbidden token.
template <typename L>
__device__ void Find(SampleShared& s, const Row<L>& row, Cut cut, Place place) {
  uint64_t base = 0;
  for (const Before* before = &s.by_gap;; before = &s.by_key) {
    if (cut.by_key) FillBins(s, row, cut, place.by_count, 0, s.by_key);
    const int bin = FindBin(s, *before, place);
    base += before->weight[bin];
    place.more_than -= place.by_count ? before->count[bin] : before->weight[bin];
    Collect(s, row, cut, bin);
    if (s.members <= kCandidates) return FindCandidate(s, place, base);
    const uint32_t high = s.highest, low = ~s.lowest_inverted;
    if (low == high) {
      const uint64_t weight = row.Weight(OfKey(high));
      const uint64_t n = place.by_count ? place.more_than : place.more_than / weight;
      if (Thread() == 0) s.found_weight = base + (n + 1) * weight;
      return FindEqual(s, row, high, static_cast<uint32_t>(n));
    }
    cut = CutByKey(low, high);
  }
}

}  // namespace shoal::cuda::sample
