// Choice of the instruction set at run time, and the count of native calls.
#pragma once

#include <cstdint>

namespace sagittal {

enum class Isa : int64_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set of this machine, or the lesser one named by SAGITTAL_ISA.
Isa isa();

void count_call();
int64_t call_count();

}  // namespace sagittal

#define SAGITTAL_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define SAGITTAL_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define SAGITTAL_TARGET_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
#else
#define SAGITTAL_TARGET_AVX2
#define SAGITTAL_TARGET_AVX512
#endif

// Defines name_portable, name_avx2 and name_avx512 around one always-inlined body, and name(),
// which returns the pointer to the one to run. `params` and `args` are parenthesised lists.
#define SAGITTAL_VARIANTS(name, body, params, args)        \
  template <class T, int W>                                \
  void name##_portable params {                            \
    body<T, W> args;                                       \
  }                                                        \
  template <class T, int W>                                \
  SAGITTAL_TARGET_AVX2 void name##_avx2 params {           \
    body<T, W> args;                                       \
  }                                                        \
  template <class T, int W>                                \
  SAGITTAL_TARGET_AVX512 void name##_avx512 params {       \
    body<T, W> args;                                       \
  }                                                        \
  template <class T, int W>                                \
  auto name() {                                            \
    return isa() == Isa::kAvx512 ? &name##_avx512<T, W>    \
           : isa() == Isa::kAvx2 ? &name##_avx2<T, W>      \
                                 : &name##_portable<T, W>; \
  }

namespace sagittal {

template <class Body, class... Args>
void run_portable(Args&&... args) {
  Body::template run<16>(args...);
}
template <class Body, class... Args>
SAGITTAL_TARGET_AVX2 void run_avx2(Args&&... args) {
  Body::template run<32>(args...);
}
template <class Body, class... Args>
SAGITTAL_TARGET_AVX512 void run_avx512(Args&&... args) {
  Body::template run<64>(args...);
}

// Calls Body::run<bytes of a vector register>(args...), an always-inlined static function, compiled
// for the instruction set to use. What it calls and is not always inlined stays portable code.
template <class Body, class... Args>
void run_for_isa(Args&&... args) {
  if (isa() == Isa::kAvx512) return run_avx512<Body>(args...);
  if (isa() == Isa::kAvx2) return run_avx2<Body>(args...);
  run_portable<Body>(args...);
}

inline int vector_bytes() { return isa() == Isa::kAvx512 ? 64 : isa() == Isa::kAvx2 ? 32 : 16; }

}  // namespace sagittal
