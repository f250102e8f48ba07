// warp.h on the host.
#pragma once

#include <cstring>

namespace shoal::cuda {
namespace emulated {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

template <typename T>
const T& At(const WarpSlots& slots, int lane) {
  return *reinterpret_cast<const T*>(slots.of[lane]);
}
template <typename T>
T& At(WarpSlots& slots, int lane) {
  return *reinterpret_cast<T*>(slots.of[lane]);
}

template <typename T>
T ShuffleFrom(const char* what, T x, int from) {
  struct In {
    T x;
    int from;
  };
  const In in = {x, from & 31};
  T out;
  Collective(kAllLanes, what, &in, sizeof(in), &out, sizeof(out), [](uint32_t, const WarpSlots& i, WarpSlots& o) {
    for (int lane = 0; lane < 32; ++lane) At<T>(o, lane) = At<In>(i, At<In>(i, lane).from).x;
  });
  return out;
}

struct MmaIn {
  uint32_t a[4], b[2];
  float d[4];
};
void MmaOfWarp(uint32_t mask, const WarpSlots& in, WarpSlots& out);
void LoadMatricesOfWarp(uint32_t mask, const WarpSlots& in, WarpSlots& out);
void LoadMatricesTransposedOfWarp(uint32_t mask, const WarpSlots& in, WarpSlots& out);
void TransposeOfWarp(uint32_t mask, const WarpSlots& in, WarpSlots& out);

}  // namespace emulated

inline float ShuffleXor(float x, int mask) { return emulated::ShuffleFrom("shuffle", x, emulated::here.lane() ^ mask); }
inline int ShuffleXor(int x, int mask) { return emulated::ShuffleFrom("shuffle", x, emulated::here.lane() ^ mask); }
inline float Shuffle(float x, int lane) { return emulated::ShuffleFrom("shuffle", x, lane); }
inline int Shuffle(int x, int lane) { return emulated::ShuffleFrom("shuffle", x, lane); }
inline uint32_t Ballot(bool vote) {
  uint32_t in = vote ? 1 : 0, out = 0;
  emulated::Collective(emulated::kAllLanes, "ballot", &in, sizeof(in), &out, sizeof(out),
                       [](uint32_t, const emulated::WarpSlots& i, emulated::WarpSlots& o) {
                         uint32_t votes = 0;
                         for (int lane = 0; lane < 32; ++lane) votes |= emulated::At<uint32_t>(i, lane) << lane;
                         for (int lane = 0; lane < 32; ++lane) emulated::At<uint32_t>(o, lane) = votes;
                       });
  return out;
}
inline uint32_t MatchAny(uint64_t x) {
  uint32_t out = 0;
  emulated::Collective(emulated::kAllLanes, "match", &x, sizeof(x), &out, sizeof(out),
                       [](uint32_t, const emulated::WarpSlots& i, emulated::WarpSlots& o) {
                         for (int lane = 0; lane < 32; ++lane) {
                           uint32_t equal = 0;
                           for (int other = 0; other < 32; ++other) {
                             const bool same = emulated::At<uint64_t>(i, lane) == emulated::At<uint64_t>(i, other);
                             equal |= static_cast<uint32_t>(same) << other;
                           }
                           emulated::At<uint32_t>(o, lane) = equal;
                         }
                       });
  return out;
}
inline void SyncWarp() { Ballot(true); }

inline void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated::MmaIn in;
  std::memcpy(in.a, a, sizeof(a));
  std::memcpy(in.b, b, sizeof(b));
  std::memcpy(in.d, d, sizeof(d));
  emulated::Collective(emulated::kAllLanes, "mma", &in, sizeof(in), d, sizeof(d), emulated::MmaOfWarp);
}
inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  emulated::Collective(emulated::kAllLanes, "ldmatrix", &row, sizeof(row), r, sizeof(r), emulated::LoadMatricesOfWarp);
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  emulated::Collective(emulated::kAllLanes, "ldmatrix.trans", &row, sizeof(row), r, sizeof(r),
                       emulated::LoadMatricesTransposedOfWarp);
}

inline uint32_t Transpose(uint32_t pair) {
  uint32_t out;
  emulated::Collective(emulated::kAllLanes, "movmatrix", &pair, sizeof(pair), &out, sizeof(out),
                       emulated::TransposeOfWarp);
  return out;
}

inline float Exp2(float x) {
  const float power = std::exp2(x);
  return power < 0x1p-126f ? 0.0f : power;
}

inline void CopyAsync16(void* shared, const void* global, bool valid) {
  emulated::BeginCopy(shared, global, 16, valid ? 16 : 0);
}
inline void CommitCopies() { emulated::CommitCopies(); }
template <int kPending>
void WaitCopies() {
  emulated::WaitCopies(kPending);
}

inline int Opaque(int x) { return x; }

inline uint32_t PackBf16(float low, float high) { return uint32_t{F32ToBF16(low)} | uint32_t{F32ToBF16(high)} << 16; }
inline uint32_t PackF16(float low, float high) { return uint32_t{F32ToF16(low)} | uint32_t{F32ToF16(high)} << 16; }
inline uint32_t PackE4M3(float low, float high) {
  return uint32_t{F32ToF8E4M3(low)} | uint32_t{F32ToF8E4M3(high)} << 8;
}
// The double is exact but for sums of far-apart magnitudes, where rounding twice could differ in the last bit.
inline uint32_t FmaBf16(uint32_t a, uint32_t b, uint32_t c) {
  const auto one = [&](int shift) {
    const auto half = [&](uint32_t pair) { return double{BF16ToF32(static_cast<uint16_t>(pair >> shift))}; };
    return static_cast<float>(half(a) * half(b) + half(c));
  };
  return PackBf16(one(0), one(16));
}
inline float2 UnpackF16(uint32_t pair) {
  return {F16ToF32(static_cast<uint16_t>(pair)), F16ToF32(static_cast<uint16_t>(pair >> 16))};
}

namespace emulated {
// A device faults where an address is not aligned.
template <typename T>
T LoadAligned(const T* at) {
  if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) std::abort();
  return *at;
}
}  // namespace emulated
inline uint4 LoadOnce(const uint4* at) { return emulated::LoadAligned(at); }
inline uint2 LoadOnce(const uint2* at) { return emulated::LoadAligned(at); }
inline uint32_t LoadOnce(const uint32_t* at) { return emulated::LoadAligned(at); }

}  // namespace shoal::cuda
