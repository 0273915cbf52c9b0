// The machine's fused multiply-add peak on one core, in float32 or float64: independent chains of
// multiply-adds that stay in registers. Built and called by harness.py; portable code counts a
// multiply and an add where the instruction set has no fused one.
#include <chrono>
#include <cstdint>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int kChains = 12;  // latency 4 x 2 units = 8 chains at least; 12 fit in 16 registers

template <class T, int kBytes>
INLINE double run(int64_t rounds) {
  typedef T Vector __attribute__((vector_size(kBytes)));
  constexpr int kLanes = kBytes / sizeof(T);
  Vector sum[kChains], a = {}, b = {};
  a += T(0.999), b += T(1e-6);
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) sum[c] = b * T(c);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * a + b;
  }
  const auto stop = std::chrono::steady_clock::now();
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum[0] += sum[c];
  volatile T sink = sum[0][0];  // the result is used, so the work is done
  (void)sink;
  return 2.0 * kChains * kLanes * rounds / std::chrono::duration<double>(stop - start).count();
}

#if defined(__x86_64__)
template <class T>
__attribute__((target("avx512f"))) double run_avx512(int64_t rounds) {
  return run<T, 64>(rounds);
}
template <class T>
__attribute__((target("avx2,fma"))) double run_avx2(int64_t rounds) {
  return run<T, 32>(rounds);
}
#endif

int vector_bytes() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return 64;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 32;
#endif
  return 16;
}

template <class T>
double best(int64_t rounds) {
#if defined(__x86_64__)
  if (vector_bytes() == 64) return run_avx512<T>(rounds);
  if (vector_bytes() == 32) return run_avx2<T>(rounds);
#endif
  return run<T, 16>(rounds);
}

}  // namespace

// Floating-point operations per second of the calling thread.
extern "C" double fma_peak_float(int64_t rounds) { return best<float>(rounds); }
extern "C" double fma_peak_double(int64_t rounds) { return best<double>(rounds); }
// Operations of one round times the bits of one number.
extern "C" int fma_peak_round_flop_bits() { return 2 * kChains * 8 * vector_bytes(); }
