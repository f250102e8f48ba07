#include "tools/bench/kernels/peak.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal::bench {
namespace {

volatile uint64_t sink;

double Seconds(ops::Stream& stream, const auto& task) {
  double best = 1e9;
  for (int i = 0; i < 7; ++i) {
    const double begin = Now(stream);
    ops::ParallelFor(stream, stream.threads(), task);
    best = std::min(best, Now(stream) - begin);
  }
  return best;
}

constexpr int kRounds = 4'000'000, kChains = 12;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void Fma512() {
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  sink = static_cast<uint64_t>(_mm512_cvtss_f32(acc[0]));
}
__attribute__((target("avx512f,avx512vnni"))) void Dot512() {
  __m512i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
  sink = static_cast<uint64_t>(_mm512_cvtsi512_si32(acc[0]));
}
__attribute__((target("avx2,fma"))) void Fma256() {
  __m256 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_ps(acc[0], acc[i]);
  sink = static_cast<uint64_t>(_mm256_cvtss_f32(acc[0]));
}
// The sequence whose 16-bit pairs cannot saturate.
__attribute__((target("avx2"))) void Dot256() {
  __m256i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_epi32(i);
  const __m256i b = _mm256_set1_epi8(-2), one = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(3);
  for (int r = 0; r < kRounds; ++r) {
    a = _mm256_xor_si256(a, one);  // keeps the products inside the loop
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_add_epi8(a, acc[i]), b), one));
    }
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_epi32(acc[0], acc[i]);
  sink = static_cast<uint64_t>(_mm256_cvtsi256_si32(acc[0]));
}
#endif

}  // namespace

double Now(const ops::Stream& stream) {
  timespec t;
  clock_gettime(stream.threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

Peak MeasurePeak(ops::Stream& stream) {
  Peak peak{};
  constexpr size_t kWords = size_t{96} << 17;  // 96 MiB a thread: past any cache this meets
  std::vector<std::vector<uint64_t>> data(static_cast<size_t>(stream.threads()), std::vector<uint64_t>(kWords, 1));
  const double read = Seconds(stream, [&](int i) {
    uint64_t sums[16] = {};
    const uint64_t* p = data[static_cast<size_t>(i)].data();
    for (size_t w = 0; w < kWords; w += 16) {
      for (size_t j = 0; j < 16; ++j) sums[j] += p[w + j];
    }
    sink = sums[0] + sums[7] + sums[15];
  });
  peak.read_gb_s = static_cast<double>(kWords * 8 * data.size()) / read / 1e9;
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
  const double operations = static_cast<double>(kRounds) * kChains * 2 * stream.threads() / 1e9;
  peak.f32_gflop_s = operations * (wide ? 16 : 8) / Seconds(stream, [&](int) { wide ? Fma512() : Fma256(); });
  peak.int8_gop_s = operations * (wide ? 64 : 32) / Seconds(stream, [&](int) { wide ? Dot512() : Dot256(); });
#endif
  return peak;
}

}  // namespace shoal::bench
